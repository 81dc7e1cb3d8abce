"""Faster and smaller: `quantize` (weights and their kernels), `compiled` (CPU), `graphs` (whole steps, CUDA).

Applied from outside: models and decode do not know them. May import models, decode and storage.
"""
