"""Open Inference Protocol v2: service inference.GRPCInferenceService with the one model mse_grad.

Its requests go through the same rules, admission, engine and backends as those of ComputeGradient. May import what rpc
may, and alone imports `mse_grad.open_inference`.
"""
