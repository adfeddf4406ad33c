"""Algorithms: equations, networks, optimizers, and the contract; no configuration, no files."""
