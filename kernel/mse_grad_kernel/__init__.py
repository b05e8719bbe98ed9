"""The compiled CPU kernel from Python, for the server's CPU backend and the PyTorch operator.

It may import only `mse_grad`. The library is compiled from kernel/cpu and lies beside the module that loads it.
"""
