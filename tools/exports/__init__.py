"""Formats of `tools.export` that other ecosystems read."""
