"""The algorithm of `reference` for many rows at once: sampling, stages, batches, the pipeline, streaming.

May import config, models, text and reference.
"""
