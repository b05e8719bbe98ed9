"""Start of a device: where its libraries lie, the errors of a failed start and their advice, the number of devices.

May import acl and process.
"""
