"""Backends, which compute gradients on this host's processor or on an Ascend NPU, behind the interface in `base`.

May import errors, process and settings; knows neither gRPC nor protobuf.
"""
