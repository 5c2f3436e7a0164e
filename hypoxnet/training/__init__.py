"""Lightning module, tracking and the training run."""
