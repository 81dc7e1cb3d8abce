"""Trains Bark from scratch: data, codec, three token models, export.

    python -m barklite.training voice --out DIR      # the built-in voice, all of it
    python -m barklite.training --help               # one step at a time, on your own recordings

Reading order: `data` (the corpus format), `loop` (the training loop), `spectrum`, `quantizer` and
`codec` (audio to codes and back), `examples`, `semantic`, `coarse` and `fine` (the token models), `prepare`
and `steps` (the commands), `recipe` (the built-in voice's hyperparameters); `speech`, `spoken` and
`texts` make its corpus.
"""
