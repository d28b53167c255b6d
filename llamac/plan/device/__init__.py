"""Devices: their figures, how to choose one, how to measure one."""
