"""Benchmarks: what Laurel costs on top of what its work costs anyway. They measure; they are no tests."""
