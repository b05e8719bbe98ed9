"""The command `mse-grad-server doctor`: finds, with the server's own code, what keeps this host from serving gradients.

May import backends.ascend.startup, process and settings.
"""
