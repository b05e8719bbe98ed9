"""The resources that the device thread owns: slots of memory, executors, jobs and the three-stream pipeline.

May import acl, backends.base and errors.
"""
