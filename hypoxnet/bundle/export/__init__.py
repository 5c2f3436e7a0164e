"""Forms in which a bundle serves programs that do not know HypoxNet."""
