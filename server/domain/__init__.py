"""What loyalty means. Pure: no I/O, no clock, no randomness; beside the standard library only orjson."""
