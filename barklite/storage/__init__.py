"""Files and the Hub: checkpoints in every layout, voices' files, compiled code, and how they are written.

May import config, models, text, validation and weights_convert; nothing here knows Bark, Voice or Clip.
"""
