"""Which run's policy to trust, from data alone."""
