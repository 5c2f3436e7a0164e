"""Encoder, decoder, heads, and the joint network."""
