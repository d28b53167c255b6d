"""The tasks of `llamac eval`."""
