"""Read models: each names the events that it follows, and can be made again from what is on record."""
