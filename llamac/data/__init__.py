"""Prepare raw dumps as token shards: the implementation of `llamac data`."""
