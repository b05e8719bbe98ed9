"""The operating-system process: exit codes, signals, log, clock, environment, descriptors and memory limits.

Imports no other room.
"""
