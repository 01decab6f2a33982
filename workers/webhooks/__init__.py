"""Webhooks: what partners want to hear of, and how it is sent to them."""
