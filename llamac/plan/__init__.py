"""Predict memory, speed and traffic of a run from its compiled Program: `llamac plan`."""
