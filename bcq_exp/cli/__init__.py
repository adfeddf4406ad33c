"""What the commands share: mistakes in one line, Hydra with our configuration, plans first."""
