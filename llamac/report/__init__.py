"""`llamac report`: training runs as an HTML page and as figures."""
