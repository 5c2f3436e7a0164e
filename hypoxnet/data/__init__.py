"""Manifest, reading, splits, cache, dataset and datamodule."""
