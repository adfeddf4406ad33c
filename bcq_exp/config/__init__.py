"""The configuration: its schema, the checking of values against it, and what runs are called."""
