"""The command `mse-grad`: its subcommands, and the conformance suite behind `verify`.

May import the SDK, which never imports it.
"""
