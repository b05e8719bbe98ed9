"""Admission of RPCs: authentication, a place among other RPCs, bounds on reading, errors and records.

Bytes are admitted by `engine`. Knows no method of the service. May import engine, security, metrics, errors and
process.
"""
