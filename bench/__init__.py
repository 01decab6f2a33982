"""Benchmarks: what Laurel costs on top of what gRPC costs anyway. They measure; they are no tests."""
