"""Typed configuration, registered with Hydra."""
