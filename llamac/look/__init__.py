"""How llamac's output looks: the theme and frame of its HTML pages."""
