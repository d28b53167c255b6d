"""Checks and choices before a run starts: files, memory, dtype, predictions."""
