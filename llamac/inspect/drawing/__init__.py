"""Drawings of regions: contents, placement and routing of boxes and lines, as SVG."""
