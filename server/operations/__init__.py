"""Use cases, one module per noun: load, decide (domain), save."""
