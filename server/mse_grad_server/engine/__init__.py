"""Admission of requests by bytes, compute threads, drain, and the opening and verification of backends.

Depends on neither gRPC nor protobuf; may import metrics, backends, settings, errors and process.
"""
