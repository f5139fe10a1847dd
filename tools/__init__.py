"""Binaries that inspect datasets and models, and the demo."""
