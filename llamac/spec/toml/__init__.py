"""Reading and writing of a spec's TOML, with the file, line and column of every value."""
