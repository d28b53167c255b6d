"""What a run did, as one page and as figures: `llamac report`."""
