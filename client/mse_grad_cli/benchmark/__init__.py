"""Latency and throughput of a running server, for `mse-grad bench`."""
