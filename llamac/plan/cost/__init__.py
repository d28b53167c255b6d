"""Costs of ops, transfers and steps on a device."""
