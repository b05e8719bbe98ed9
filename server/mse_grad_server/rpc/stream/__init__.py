"""Streams of requests: their messages, batches of chunks that are computed together, answers in order, errors.

Only `stream`, `client_streams` and `handler` do I/O. May import rpc.admission, shared_memory, engine and what is below.
"""
