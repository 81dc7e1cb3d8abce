"""Encodes audio piece by piece in the endpoint's formats."""

import io

import numpy as np

from ..clip import pcm16, wav

MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
CODED = {
    "mp3": dict(format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="CONSTANT", compression_level=0.5),
    "opus": dict(format="OGG", subtype="OPUS"),
    "flac": dict(format="FLAC", subtype="PCM_16"),
}


class Encoder:
    """Encodes audio as it comes.

    A WAV header has the length only if all audio comes in one piece. FLAC is returned at the end, because
    many readers need its length in the header.
    """

    def __init__(self, format: str, sample_rate: int):
        self.format, self.rate, self._sent = format, sample_rate, 0
        self._file = io.BytesIO()
        if format in CODED:
            import soundfile

            self._coder = soundfile.SoundFile(self._file, "w", sample_rate, channels=1, **CODED[format])

    def add(self, audio: np.ndarray, last: bool = False) -> bytes:
        """Encode audio (samples,), float32, and return the new bytes. last: this is the end."""
        if self.format == "pcm":
            return pcm16(audio).astype("<i2").tobytes()
        if self.format == "wav":
            return self._wav(audio, last)
        self._coder.write(pcm16(audio) if self.format == "flac" else np.clip(audio, -1, 1))
        if last:
            self._coder.close()
        elif self.format == "flac":
            return b""
        data = self._file.getvalue()[self._sent :]
        self._sent += len(data)
        return data

    def _wav(self, audio: np.ndarray, last: bool) -> bytes:
        whole = wav(audio, self.rate)
        head = len(whole) - 2 * len(audio)
        if not self._sent and not last:  # declare the maximal length: readers stop at the end of the stream
            whole = whole[:4] + b"\xff" * 4 + whole[8 : head - 4] + b"\xff" * 4 + whole[head:]
        data = whole[head if self._sent else 0 :]
        self._sent += len(data)
        return data
