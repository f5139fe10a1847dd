"""Shared code of the datasets: finding, reading and writing them."""
