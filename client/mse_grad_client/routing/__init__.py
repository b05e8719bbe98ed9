"""Routing of requests to a server: addresses, workers, connections, credentials, fork.

May import shared_memory, stream and the modules below them, but neither client nor batching.
"""
