"""Memory and packets shared with a server on the same host: segments, their handover, the requests that use them.

May import stream and the modules below it, but not routing.
"""
