"""What members are told: messages of events, and the channels by which they leave."""
