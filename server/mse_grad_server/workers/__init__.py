"""Worker processes of one host: start, heartbeat, restart, their endpoints, one metrics page.

Imports neither gRPC nor NumPy; may import metrics.endpoint, security, settings, errors and process.
"""
