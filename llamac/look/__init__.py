"""Appearance of llamac's output: terminal styles, tables and HTML pages."""
