"""Tasks of `llamac eval`."""
