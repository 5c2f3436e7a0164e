"""Losses of the joint model."""
