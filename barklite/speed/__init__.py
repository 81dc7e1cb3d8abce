"""Faster and smaller: `quantize` (weights and their kernels), `compiled` and `many_rows` (CPU), `graphs`
(whole steps, CUDA), `memory`.

Applied from outside: models and decode do not know them. May import models, decode and storage.
"""
