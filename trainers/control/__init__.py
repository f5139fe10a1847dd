"""How a controller is found: practice, learning and selection."""
