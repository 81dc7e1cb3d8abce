"""Text to ids, before Bark adds its offset of 10048.

`WordPiece` equals transformers' fast bert-base-multilingual-cased tokenizer (spec 2.2 and appendix A).
`SentencePiece` is for models trained with barklite, its subclass `English` for the built-in voice, `Bytes`
for random weights, which have no vocabulary. All have `encode(text) -> list[int]`,
`pieces(ids) -> list[str]`, `vocab_size`, and `file_name` and `content()` to save them.
"""

import unicodedata
import warnings
from functools import lru_cache
from pathlib import Path

from ..config import TokenConfig

MAX_WORD = 100  # a longer word is one [UNK]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class WordPiece:
    """Greedy longest-match-first over a vocabulary file with one token per line; an id is a line number."""

    file_name = "vocab.txt"

    def __init__(self, vocabulary: list[str]):
        self.ids = {token: i for i, token in enumerate(vocabulary)}
        self.vocab_size = len(vocabulary)
        self._vocabulary = vocabulary
        if missing := [token for token in SPECIAL if token not in self.ids]:
            raise ValueError(f"the vocabulary has no {missing[0]}: it is not one of BERT's")

    @classmethod
    def load(cls, path: str | Path) -> "WordPiece":
        """Read `vocab.txt`. ValueError if it is not UTF-8 text or lacks BERT's special tokens."""
        try:
            text = Path(path).read_bytes().decode("utf-8")
            return cls([line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")])
        except ValueError as error:  # UnicodeDecodeError is one
            raise ValueError(f"{path}: {error}") from None

    def content(self) -> bytes:
        """Return the content of the file that `load` reads."""
        return ("\n".join(self._vocabulary) + "\n").encode("utf-8")

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without special tokens; [] if it has no visible character."""
        ids = []
        for piece, special in _split_special(text):
            if special:
                ids.append(self.ids[piece])
            else:
                for word in _words(_clean(piece)):
                    ids += self._word(word)
        return ids

    def pieces(self, ids: list[int]) -> list[str]:
        """Return the tokens of `ids` as strings."""
        return [self._vocabulary[i] for i in ids]

    def _word(self, word: str) -> list[int]:
        unknown = [self.ids["[UNK]"]]
        if len(word) > MAX_WORD:
            return unknown
        ids, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                token = self.ids.get(prefix + word[start:end])
                if token is not None:
                    break
            else:
                return unknown
            ids.append(token)
            start = end
        return ids


class SentencePiece:
    """A tokenizer of the sentencepiece library, from its `tokenizer.model`."""

    file_name = "tokenizer.model"

    def __init__(self, model: bytes):
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(model)
        self._model = model
        self.vocab_size = self._processor.vocab_size()

    @classmethod
    def load(cls, path: str | Path) -> "SentencePiece":
        """Read a `tokenizer.model`. ValueError if sentencepiece rejects it."""
        try:
            return cls(Path(path).read_bytes())
        except (RuntimeError, UnicodeDecodeError):
            raise ValueError(f"{path} is not a SentencePiece model") from None

    def content(self) -> bytes:
        """Return the content of the file that `load` reads."""
        return self._model

    def encode(self, text: str) -> list[int]:
        return self._processor.EncodeAsIds(text)

    def pieces(self, ids: list[int]) -> list[str]:
        """Return the tokens of `ids` as strings."""
        return self._processor.IdToPiece(ids)


class English(SentencePiece):
    """A SentencePiece tokenizer for English. `spell_out` first turns numbers, symbols and abbreviations into
    lower-case words.
    """

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; [] if it has no word. Warns about characters that it skips."""
        from .english import skipped, spell_out  # imported here because compiling its rules takes a while

        if unread := skipped(text):
            warnings.warn(f"{' '.join(unread[:20])}: skipped, not English letters", stacklevel=2)
        return super().encode(spell_out(text))


class Bytes:
    """One token per UTF-8 byte, for models without a vocabulary file."""

    file_name = None
    vocab_size = 256

    @classmethod
    def load(cls, path: str | Path | None = None) -> "Bytes":
        return cls()

    def content(self) -> bytes:
        return b""

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", errors="replace"))

    def pieces(self, ids: list[int]) -> list[str]:
        """Return the bytes as printable strings."""
        return [chr(i) if 32 <= i < 127 else f"<{i:02x}>" for i in ids]


Tokenizer = WordPiece | SentencePiece | English | Bytes
# Keyed by the names in config.json. A subclass comes before its base: the first `isinstance` match counts.
KINDS = {"wordpiece": WordPiece, "english": English, "sentencepiece": SentencePiece, "bytes": Bytes}


def check_vocabulary(tokenizer: Tokenizer, tokens: TokenConfig) -> None:
    """ValueError unless all ids fit between `text_offset` and `text_pad`, where the model's text ids are.

    A WordPiece vocabulary must fill that space exactly (Bark's has 119547 lines), to detect a truncated file.
    """
    room = tokens.text_pad - tokens.text_offset
    if tokenizer.vocab_size > room or (isinstance(tokenizer, WordPiece) and tokenizer.vocab_size != room):
        raise ValueError(
            f"the vocabulary ({tokenizer.file_name or 'bytes'}) has {tokenizer.vocab_size} entries, "
            f"but the model has {room} text ids: it is cut short, or belongs to another model"
        )


# --- the steps of BERT's pre-tokenisation -------------------------------------------------------------------


def _split_special(text: str) -> list[tuple[str, bool]]:
    """Split at literal special tokens such as "[SEP]": [(piece, is it special)]."""
    pieces, start, i = [], 0, text.find("[")
    while i >= 0:
        token = next((token for token in SPECIAL if text.startswith(token, i)), None)
        if token:
            pieces += [(text[start:i], False), (token, True)]
            start = i + len(token)
        i = text.find("[", i + len(token or "["))
    return [*pieces, (text[start:], False)]


def _clean(text: str) -> str:
    """Remove control characters, turn white space into spaces, put spaces around CJK ideographs."""
    return "".join(_cleaned(character) for character in text)


def _words(text: str) -> list[str]:
    """Split at spaces and around each punctuation character."""
    words = []
    for chunk in text.split(" "):
        word = ""
        for character in chunk:
            if _is_punctuation(character):
                words += [word, character] if word else [character]
                word = ""
            else:
                word += character
        if word:
            words.append(word)
    return words


@lru_cache(maxsize=4096)
def _cleaned(character: str) -> str:
    code = ord(character)
    if character in "\t\n\r" or unicodedata.category(character) in ("Zs", "Zl", "Zp"):
        return " "
    if code in (0, 0xFFFD) or unicodedata.category(character) in ("Cc", "Co"):
        return ""
    if unicodedata.category(character) == "Cf" and not _within(code, _KEPT_FORMATS):
        return ""
    return f" {character} " if _within(code, _CJK) else character


@lru_cache(maxsize=4096)
def _is_punctuation(character: str) -> bool:
    code = ord(character)
    if code < 128:
        return 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    if _within(code, _EXTRA_PUNCTUATION):
        return True
    return unicodedata.category(character).startswith("P") and not _within(code, _NEWER_PUNCTUATION)


def _within(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(low <= code <= high for low, high in ranges)


def _ranges(text: str) -> tuple[tuple[int, int], ...]:
    pairs = (item.partition("-") for item in text.split())
    return tuple((int(low, 16), int(high or low, 16)) for low, _, high in pairs)


_CJK = _ranges("3400-4DBF 4E00-9FFF F900-FAFF 20000-2A6DF 2A700-2B81F 2B920-2CEAF 2F800-2FA1F")

# The fast tokenizer has older Unicode tables than Python. These characters are newer or changed class since
# (appendix A).
_KEPT_FORMATS = _ranges("0890-0891 08E2 110CD 13430-1343F")
_EXTRA_PUNCTUATION = _ranges("166D 111C9")
_NEWER_PUNCTUATION = _ranges(
    "061D 09FD 0A76 0C77 0C84 1B4E-1B4F 1B7D-1B7F 2E43-2E4F 2E52-2E5D 10D6E 10EAD 10ED0 10F55-10F59"
    " 10F86-10F89 113D4-113D5 113D7-113D8 1144B-1144F 1145A-1145B 1145D 11660-1166C 116B9 1183B"
    " 11944-11946 119E2 11A3F-11A46 11A9A-11A9C 11A9E-11AA2 11B00-11B09 11BE1 11C41-11C45 11C70-11C71"
    " 11EF7-11EF8 11F43-11F4F 11FFF 12FF1-12FF2 16D6D-16D6F 16E97-16E9A 16FE2 1E5FF 1E95E-1E95F"
)
