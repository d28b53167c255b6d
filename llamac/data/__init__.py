"""From raw dumps to token shards: `llamac data`."""
