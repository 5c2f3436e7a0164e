"""Time-to-event arithmetic: hazards, cumulative incidence, censoring weights."""
