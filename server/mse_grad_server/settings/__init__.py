"""Settings of the server: the model, its checks, the sources (flags, environment, YAML), and addresses.

May import errors and process.
"""
