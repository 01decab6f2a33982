"""One process of Laurel: gRPC and REST over the same gate, put together."""
