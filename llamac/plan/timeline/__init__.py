"""One step laid out in time: events, pipeline order, memory, trace."""
