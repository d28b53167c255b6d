"""Launching of an emitted run, on this machine or through a cluster's own tool."""
