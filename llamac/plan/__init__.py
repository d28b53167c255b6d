"""What a run will need and how fast it will be, from the compiled Program: `llamac plan`."""
