"""One Piccolo migration per module, run in the order of their ids."""
