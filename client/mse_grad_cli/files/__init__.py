"""Operands and gradients in .npy files."""
