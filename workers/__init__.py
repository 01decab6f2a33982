"""ARQ workers: the relay, projections, notifications and schedules. Empty until they work."""
