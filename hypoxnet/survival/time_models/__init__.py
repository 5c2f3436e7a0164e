"""Outcome models behind one interface: discrete hazards, Cox, DeepHit, Weibull; all with competing risks."""
