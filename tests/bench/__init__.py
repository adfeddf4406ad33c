"""Benchmarks (``make bench``): nothing here runs in ``make test``."""
