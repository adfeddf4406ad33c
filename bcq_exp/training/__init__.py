"""Training: runs built from a configuration, advanced by an engine, evaluated and recorded."""
