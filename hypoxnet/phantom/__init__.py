"""The digital reference object: tumours whose oxygen is known."""
