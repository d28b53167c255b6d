"""Pure functions from a Program to text, tables and drawings."""
