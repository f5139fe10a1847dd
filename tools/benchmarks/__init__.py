"""Stages of `tools.benchmark`, one module for each part of the project."""
