"""Text before the models: `tokenizer`, `english` (numbers and signs in words), `sentences` (long texts).

May import config.
"""
