"""Bindings of the ACL runtime and of the compiled operator by ctypes, with their declarations and error codes.

Only this folder calls the libraries of CANN. It may import backends.edges.
"""
