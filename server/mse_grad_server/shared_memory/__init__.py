"""Shared memory with clients of the same host: sealed memfds, their handover and bounds, and requests in packets.

May import metrics, settings, errors and process.
"""
