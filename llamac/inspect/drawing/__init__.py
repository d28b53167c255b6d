"""Drawings of regions: what is on the sheet, where it stands, how the lines run, and the SVG."""
