"""What the datasets of this project share: finding, reading and writing."""
