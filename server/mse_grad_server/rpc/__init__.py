"""gRPC side of the server: listeners, readiness, the interceptor, the handler of each method and their rules.

May import every room below it: shared_memory, workers, engine, metrics, backends, security, settings, process.
"""
