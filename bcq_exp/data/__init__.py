"""Offline data: loading, validation, caching and collection; without deep learning."""
