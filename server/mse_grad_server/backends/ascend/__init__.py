"""The backend for Ascend NPUs, through the ACL runtime and the compiled custom operator.

Only this package loads their libraries. It may import backends.base, backends.edges, errors, process and settings.
"""
