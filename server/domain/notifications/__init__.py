"""What members are told of: occasions, whom they may reach when, bursts, templates. Pure."""
