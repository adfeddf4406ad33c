"""BCQ: equations, networks, optimizers and the algorithm; no configuration, no files."""
