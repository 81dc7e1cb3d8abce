"""Files and the Hub: checkpoints in every layout, voice files, compiled code, atomic writing.

May import config, models, text, validation and weights_convert, but not Bark, Voice or Clip.
"""
