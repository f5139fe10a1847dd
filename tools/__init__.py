"""Binaries to look at datasets and models, and the demo."""
