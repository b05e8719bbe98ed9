"""Streams of requests: calls that carry bytes, the messages on them, and requests under way.

May import request, retry, interrupts, options and errors, but neither routing nor shared_memory.
"""
