"""Offline data: loading, checking, caching and collecting it. No deep learning in here."""
