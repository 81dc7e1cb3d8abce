"""The voices of a server: the model's, OpenAI's names as aliases for them, and uploaded ones."""

import asyncio
import re
from itertools import cycle

from ..bark import Bark
from ..voice import Voice

OPENAI = ("alloy", "ash", "ballad", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer", "verse")
OPENAI += ("marin", "cedar")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Voices:
    """Voices by name. At most `most` uploaded ones are kept in memory."""

    def __init__(self, bark: Bark, most: int):
        self.bark, self.most = bark, most
        self.names = bark.voices
        english = [name for name in self.names if name.startswith("v2/en_")] or self.names
        self.aliases = dict(zip(OPENAI, cycle(english), strict=False))
        self.uploaded: dict[str, Voice] = {}
        self._cached: dict[str, Voice] = {}  # the last used of the model's voices

    async def get(self, name: str) -> Voice:
        """Return a voice. ValueError for an unknown name, OSError if it cannot be fetched from the Hub."""
        if name in self.uploaded:
            return self.uploaded[name]
        name = self.aliases.get(name, name)
        if name not in self.names:  # also rejects paths
            raise ValueError(f"there is no voice {name!r:.80}: GET /v1/voices lists them")
        if name not in self._cached:
            voice = await asyncio.to_thread(self.bark.find_voice, name)
            while len(self._cached) >= 64:
                self._cached.pop(next(iter(self._cached)))
            self._cached[name] = voice
        return self._cached[name]

    async def add(self, name: str, data: bytes) -> None:
        """Add a voice from an `.npz`. ValueError for a bad name or file, or if there is no room."""
        tokens = self.bark.config.tokens
        voice = await asyncio.to_thread(Voice.load, bytes(data), tokens, name)
        if not NAME.fullmatch(name):
            raise ValueError("a voice's name must have 1 to 64 letters, digits, - or _")
        if name in self.names or name in self.aliases:
            raise ValueError(f"{name!r} is a voice of the model: choose another name")
        if name not in self.uploaded and len(self.uploaded) >= self.most:
            raise ValueError(f"there is no room for more than {self.most} voices: delete one")
        self.uploaded[name] = voice

    def listed(self) -> list[dict]:
        """Return the list of voices for the API."""
        known = [(name, "model") for name in self.names] + [(name, "uploaded") for name in self.uploaded]
        aliases = [{"id": name, "from": "alias", "of": of} for name, of in self.aliases.items()]
        return [{"id": name, "from": source} for name, source in known] + aliases
