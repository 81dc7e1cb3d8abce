"""Text processing: `tokenizer`, `english` (numbers and symbols to words), `sentences` (splits long texts).

May import config.
"""
