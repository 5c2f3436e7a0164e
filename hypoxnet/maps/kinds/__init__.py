"""Kinds of maps: what a raw series becomes, which settings it takes, which maps of others it may use."""
