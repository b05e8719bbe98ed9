"""Recovery of a device: the ladder of repairs as pure rules, the repairs, the self-check and the watchdog.

May import acl, device, startup.errors, the observer, backends.base and errors.
"""
