"""Parameters of the digital reference object: every number with its unit, its bounds and its source. Loads no torch."""
