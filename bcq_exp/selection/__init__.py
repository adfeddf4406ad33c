"""Off-policy selection: choose among policies from data alone."""
