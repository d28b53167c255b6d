"""Rules between sections of a spec, and the tables that they read."""
