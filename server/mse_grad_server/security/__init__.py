"""TLS certificates and bearer tokens, reloaded while the server runs.

May import settings, errors and process.
"""
