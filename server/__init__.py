"""The asyncio gRPC server: rpc -> operations -> store -> domain."""
