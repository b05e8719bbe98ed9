"""Prometheus metrics: the registry, its collectors, the record of a request, the HTTP endpoint.

May import backends, settings, errors and process.
"""
