"""Protobuf in, protobuf out; interceptors; the one mapping from domain errors to gRPC status."""
