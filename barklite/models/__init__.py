"""Bark's four networks as plain modules: `gpt` (semantic and coarse, with the KV cache), `fine`, `codec`.

May import config. Together they are under 400 lines; speed and inspection are applied from outside.
"""
