"""What `tools.benchmark` measures, one module for each part of the project."""
