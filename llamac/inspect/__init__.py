"""Looking inside a Program: pure functions from a Program to text, tables and drawings."""
