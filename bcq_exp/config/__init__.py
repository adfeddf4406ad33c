"""The configuration: its schema, validation, and the names of runs."""
