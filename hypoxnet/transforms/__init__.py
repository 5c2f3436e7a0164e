"""From a case on disk to a sample for the network, and the augmentation of a batch."""
