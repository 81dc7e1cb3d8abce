"""Measurements of barklite. Each module is a program: `python -m benchmarks.NAME --help`."""
