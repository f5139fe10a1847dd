"""Training binaries: they read prepared datasets and export weights."""
