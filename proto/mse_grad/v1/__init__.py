"""Generated modules of `mse_grad.v1`; `proto/generate.py` writes them."""
