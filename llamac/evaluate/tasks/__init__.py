"""The tasks that `llamac eval` knows."""
