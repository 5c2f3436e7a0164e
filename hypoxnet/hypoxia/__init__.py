"""From a map to a statement about hypoxia: tracers, ratios, volumes, thresholds."""
