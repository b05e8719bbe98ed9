"""Direct connections: requests over TCP without HTTP/2, beside the stream of an RPC.

May import stream and the modules below it, but not routing.
"""
