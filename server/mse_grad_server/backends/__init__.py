"""What computes: one module a backend, behind the seam in `base`."""
