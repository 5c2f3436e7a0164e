"""Figures of merit with their intervals, and the baselines beside them."""
