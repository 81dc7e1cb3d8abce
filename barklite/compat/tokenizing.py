"""transformers' tokenizer on top of barklite's: texts to padded ids and masks, and ids to text."""

import json
import numbers
import os
import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from barklite.storage.checkpoint import write_tokenizer
from barklite.storage.formats import VOCABULARY_HELP, read_json
from barklite.text.tokenizer import KINDS, Tokenizer, WordPiece
from weights_convert.huggingface import vocabulary

from .batch import BatchEncoding, check_tensors
from .files import hub_options, locate, warn_of, write_text

PAD = 0  # the model replaces it by its own pad, using the mask
NOMINAL_LENGTH = 512  # what `max_length=None` pads to
TRUNCATION = {True: True, "longest_first": True, "only_first": True, False: False, None: False}
TRUNCATION["do_not_truncate"] = False
PADDING = {True: True, "longest": True, "max_length": False, False: None, None: None, "do_not_pad": None}
SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "mask", "pad", "sep", "unk")}
CONFIG = {
    **SPECIAL,
    "do_lower_case": False,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "model_max_length": NOMINAL_LENGTH,
    "tokenizer_class": "BertTokenizer",
    "processor_class": "BarkProcessor",
}


class BarkTokenizer:
    """Converts texts to ids and back. own: a tokenizer of `barklite.text.tokenizer`, else TypeError."""

    model_max_length, padding_side, pad_token_id = NOMINAL_LENGTH, "right", PAD
    native = False  # whether it was loaded from barklite's layout

    def __init__(self, own: Tokenizer):
        if not isinstance(own, Tokenizer):
            kinds = ", ".join(kind.__name__ for kind in KINDS.values())
            raise TypeError(
                f"tokenizer is {type(own).__name__}; give one of barklite.text.tokenizer: {kinds}"
            )
        self.own, self.vocab_size = own, own.vocab_size
        if isinstance(own, WordPiece):
            vars(self).update(SPECIAL)  # `cls_token` and the others
            vars(self).update({f"{name}_id": own.ids[token] for name, token in SPECIAL.items()})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> "BarkTokenizer":
        """Load from a directory in any layout that barklite reads, or a Hub id. OSError if there is none."""
        name, options = pretrained_model_name_or_path, hub_options(kwargs)
        warn_of(f"{cls.__name__}.from_pretrained", kwargs)
        config = locate(name, "config.json", **options)
        config = read_json(config) if config else {}
        native = config.get("model_type") == "barklite"
        made = cls(_load(name, config.get("tokenizer") if native else None, options))
        made.native = native
        return made

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Write the vocabulary and transformers' other files. ValueError for a tokenizer without files."""
        if self.own.file_name is None:
            raise ValueError(f"{type(self.own).__name__} has no files that could be loaded again")
        os.makedirs(save_directory, exist_ok=True)
        write_tokenizer(Path(save_directory), self.own)
        if isinstance(self.own, WordPiece):
            for file, content in (("tokenizer_config.json", CONFIG), ("special_tokens_map.json", SPECIAL)):
                write_text(Path(save_directory, file), json.dumps(content, indent=2, sort_keys=True) + "\n")

    def __len__(self) -> int:
        return self.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Return {token: id}."""
        return dict(self._wordpiece("a vocabulary of tokens").ids)

    @property
    def all_special_ids(self) -> list[int]:
        return [self.own.ids[token] for token in SPECIAL.values()] if isinstance(self.own, WordPiece) else []

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int]:
        """Return the ids of tokens, [UNK]'s for unknown ones."""
        ids = self._wordpiece("tokens").ids
        return (
            ids.get(tokens, ids["[UNK]"])
            if isinstance(tokens, str)
            else [*map(self.convert_tokens_to_ids, tokens)]
        )

    def convert_ids_to_tokens(
        self, ids: int | Iterable[int], skip_special_tokens: bool = False
    ) -> str | list[str]:
        """Return the tokens of ids."""
        if isinstance(ids, numbers.Integral):
            return self._tokens()[ids]
        skipped = self.all_special_ids if skip_special_tokens else ()
        return [self._tokens()[int(i)] for i in ids if int(i) not in skipped]

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[str]:
        return self.convert_ids_to_tokens(self.encode(text, add_special_tokens))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of a text, with [CLS] before and [SEP] after if `add_special_tokens` is set."""
        ids = self.own.encode(text)
        if not add_special_tokens:
            return ids
        own = self._wordpiece("[CLS] and [SEP], which add_special_tokens asks for")
        return [own.ids["[CLS]"], *ids, own.ids["[SEP]"]]

    def decode(self, token_ids: int | Iterable[int], skip_special_tokens: bool = False, **kwargs) -> str:
        """Convert ids to text: join pieces of words, and put spaces between words but not before . , ! ?"""
        ids = [token_ids] if isinstance(token_ids, numbers.Integral) else token_ids
        if isinstance(self.own, KINDS["bytes"]):
            return bytes(int(i) for i in ids).decode("utf-8", errors="replace")
        text = ""
        for i, token in enumerate(self.convert_ids_to_tokens(ids, skip_special_tokens)):
            apart = i and not token.startswith("##") and token not in [*".,!?"]
            text += (" " if apart else "") + (token.removeprefix("##") if i else token)
        return text

    def batch_decode(self, sequences: Iterable, skip_special_tokens: bool = False, **kwargs) -> list[str]:
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str | None = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        return_token_type_ids: bool | None = None,
        padding_side: str | None = None,
        verbose: bool = True,
        **kwargs,
    ) -> BatchEncoding:
        """Return `input_ids` (B, T), `attention_mask`, 1 for text, and `token_type_ids`, all 0; the last two
        can be turned off.

        text: one, or a list. padding: True for the longest text's length, "max_length", or False. A text
        longer than `max_length` is not cut, unless `truncation=True`. return_tensors: "pt", "np", or None for
        lists (of ids, for one text). padding_side: "right" or "left". ValueError or TypeError for bad input.
        """
        check_tensors(return_tensors)
        if kwargs:
            raise TypeError(f"the tokenizer does not know {', '.join(kwargs)}")
        for name, given, known in (("truncation", truncation, TRUNCATION), ("padding", padding, PADDING)):
            if given not in known:
                raise ValueError(f"{name} is {given!r}; choose True, False or {[*known][1]!r}")
        side = padding_side or "right"
        if side not in ("right", "left"):
            raise ValueError(f"padding_side is {side!r}; choose 'right' or 'left'")
        if not (max_length is None or isinstance(max_length, numbers.Integral)):
            raise TypeError(f"max_length is {max_length!r}; it must be a whole number")
        length = NOMINAL_LENGTH if max_length is None else int(max_length)
        if length < 0:
            raise ValueError(f"max_length is {length}; it must be 0 or more")

        rows = [self.encode(one, add_special_tokens) for one in _texts(text)]
        if TRUNCATION[truncation]:
            rows = [_cut(ids, length, add_special_tokens) for ids in rows]
        if PADDING[padding] is not False:
            length = max(map(len, rows)) if PADDING[padding] else 0
        if return_tensors and len(lengths := {max(length, len(ids)) for ids in rows}) > 1:
            raise ValueError(
                f"the texts have up to {max(lengths)} tokens, more than max_length={length}, and not all as "
                "many: pass truncation=True to cut them, or give shorter ones"
            )
        columns = {"input_ids": rows}
        if return_token_type_ids is not False:
            columns["token_type_ids"] = [[0] * len(ids) for ids in rows]
        if return_attention_mask is not False:
            columns["attention_mask"] = [[1] * len(ids) for ids in rows]
        for name, column in columns.items():
            pads = [[PAD] * (length - len(row)) for row in column]
            column = [
                row + pad if side == "right" else pad + row for row, pad in zip(column, pads, strict=True)
            ]
            single = isinstance(text, str) and not return_tensors
            columns[name] = np.array(column, np.int64) if return_tensors else column[0] if single else column
        return BatchEncoding(columns, tensor_type=return_tensors)

    def _wordpiece(self, wanted: str) -> WordPiece:
        if not isinstance(self.own, WordPiece):
            raise ValueError(f"{type(self.own).__name__} has no {wanted}")
        return self.own

    def _tokens(self) -> list[str]:
        if "_by_id" not in vars(self):
            self._by_id = [*self._wordpiece("tokens").ids]
        return self._by_id


def _texts(text) -> Sequence[str]:
    """Return the texts of a call as a list. Errors are those of transformers: ValueError or TypeError."""
    if isinstance(text, str):
        text = [text]
    if not isinstance(text, (list, tuple)) or not text or not isinstance(text[0], str):
        raise ValueError(f"text is {reprlib.repr(text)}; give a string, or a list with at least one string")
    for one in text:
        if not isinstance(one, str) or any("\ud800" <= character <= "\udfff" for character in one):
            raise TypeError(f"text {reprlib.repr(one)} is not a valid Unicode string")
    return text


def _cut(ids: list[int], length: int, special: bool) -> list[int]:
    if len(ids) <= length or (special and length < 2):
        return ids
    return [*ids[: length - 1], ids[-1]] if special else ids[:length]


def _load(name: str | os.PathLike, kind: str | None, options: dict) -> Tokenizer:
    """Load a tokenizer. kind: from barklite's `config.json`; None tells the kind from the files."""
    if kind == "bytes":
        return KINDS[kind].load()
    if kind not in ("sentencepiece", "english") and (file := locate(name, "vocab.txt", **options)):
        return WordPiece.load(file)
    if kind is None and (file := locate(name, "tokenizer.json", **options)):
        return WordPiece(vocabulary(read_json(file)))
    if kind != "wordpiece" and (file := locate(name, "tokenizer.model", **options)):
        return KINDS[kind or "sentencepiece"].load(file)
    if kind in ("sentencepiece", "english"):
        raise FileNotFoundError(f"{name} has no tokenizer.model")
    raise FileNotFoundError(f"{name} has neither vocab.txt nor tokenizer.json: {VOCABULARY_HELP}")
