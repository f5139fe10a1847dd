"""Default configs of the trainers, one file each."""
