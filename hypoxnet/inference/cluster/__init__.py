"""One cohort by many workers, here or on other machines: who has which case, and what is done when one is lost."""
