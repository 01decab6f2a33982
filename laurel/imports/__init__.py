"""Bringing members and their points from CSV files, through the public API."""
