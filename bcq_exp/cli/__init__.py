"""What the commands share: one-line errors, Hydra with this configuration, plans."""
