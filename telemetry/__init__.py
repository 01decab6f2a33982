"""Traces and metrics: what server and gateway share. It knows neither of them."""
