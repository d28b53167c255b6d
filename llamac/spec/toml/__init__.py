"""Read and write a spec's TOML, knowing the file, line and column of every value."""
