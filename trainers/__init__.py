"""Training binaries: prepared datasets flow in, exported weights flow out."""
