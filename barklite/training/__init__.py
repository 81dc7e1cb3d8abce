"""Training Bark from scratch, small enough to read: data, codec, three token models, export.

    python -m barklite.training voice --out DIR      # the built-in voice, all of it
    python -m barklite.training --help               # one step at a time, on your own recordings

Read `data` (what a corpus is), `loop` (the one training loop), `spectrum`, `quantizer` and `codec` (sound to
codes and back), `tokens` (the three token models), `prepare` and `steps` (what each command does), `recipe`
(the built-in voice's numbers); `speech` and `texts` make the corpus that it learned from.
"""
