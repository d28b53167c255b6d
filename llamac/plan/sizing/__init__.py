"""Model sizes for a compute budget."""
