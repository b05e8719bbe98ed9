"""Connections beside gRPC that carry the messages of a stream: packets of a unix socket, and frames over TCP.

May import metrics, settings, errors and process.
"""
