"""The other implementations: their venv, and a script each that times their training step."""
