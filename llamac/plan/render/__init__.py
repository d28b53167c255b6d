"""Predictions as tables and pictures."""
