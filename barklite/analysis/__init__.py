"""Analysis of models and clips: `score`, `trace`, `align` (word times), `plot`, `report`, `subtitles`.

May import the door and all below it, except bark.
"""
