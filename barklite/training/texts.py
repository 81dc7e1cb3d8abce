"""The texts of the built-in English voice: what the synthetic speaker reads aloud for training.

Three sources. WordNet's example sentences and definitions bring many words, each in few sentences; `everyday`
brings the common words of speech, the contractions, the numbers and the letters, in sentences that small
grammars make; and `rare` puts WordNet's names of people and places, its less common words, dates, times,
prices and measures into longer ones.

The grammars are in `everyday.txt` and `rare.txt`. Everything is lower case and uses only the letters, the
apostrophe and `,.?!`.
"""

import random
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from ..text.english import spell_out

MAX_CHARS = 120  # of one sentence
MAX_JOINED_CHARS = 125  # of two sentences joined into one text
MAX_WORDNET_WORDS = 20
MAX_EVERYDAY_WORDS = 14
MAX_RARE_WORDS = 24
JOINED_SHARE = 20  # one text in so many is two sentences joined
HELD_OUT, HARDER = map(Path(__file__).with_name, ("held_out.txt", "harder.txt"))
GRAMMAR = Path(__file__).with_name("everyday.txt")
RARE = Path(__file__).with_name("rare.txt")

WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
COUNTS = "cntlist.rev"  # how often a sense occurs in tagged texts
NAME = re.compile(r"[A-Z][a-z']+( [A-Z][a-z']+){0,2}")
ALPHABET = re.compile(r"[a-z' ,.?!]+")
VOWELLESS = {"hm", "hmm", "mm", "shh", "psst", "pst", "nth"}  # words all the same
ABBREVIATIONS = {"etc", "prof", "gen", "sen", "gov", "rev", "capt", "ave", "inc"}
ABBREVIATIONS |= {"jan", "feb", "aug", "oct", "dec"}


# ---------------------------------------------------------------------------------------------- WordNet


def wordnet_sentences(directory: str | Path) -> list[str]:
    """The quoted example sentences and the definitions of a WordNet 3 `dict` directory, cleaned, sorted, each
    once. What a definition has in parentheses is left out.

    Kept are texts of 2 to 20 words and at most 120 characters that a speaker can read without guessing: no
    digits, initials, abbreviations or words in capitals. FileNotFoundError if a data file is not there.
    """
    directory = _wordnet(directory)
    found = set()
    for name in WORDNET_FILES:
        for line in (directory / name).read_text(encoding="latin-1").splitlines():
            if line.startswith("  ") or " | " not in line:  # the licence, at the top of each file
                continue
            gloss = line.split(" | ", 1)[1]
            if gloss.count('"') % 2 == 0:  # else there is no telling the examples from the definition
                definition, *rest = gloss.split('"')
                definitions = re.sub(r"\(.*?\)", "", definition).split(";")
                found.update(filter(None, map(_clean, (*definitions, *rest[::2]))))
    return sorted(found)


def wordnet_names(directory: str | Path) -> dict[str, list[str]]:
    """Return what fills the slots of `rare.txt`: the names of people ("who", of one word "surname") and of
    places ("town"), and the words that occur in WordNet's tagged texts ("word"), each sorted.

    FileNotFoundError if a data file is not there.
    """
    directory, found = _wordnet(directory), {"15": set(), "18": set()}  # lexicographer files of nouns
    for line in (directory / "data.noun").read_text(encoding="latin-1").splitlines():
        fields = line.split(" | ")[0].split()
        if not line.startswith("  ") and fields[1] in found:
            found[fields[1]].update(fields[4 : 4 + 2 * int(fields[3], 16) : 2])
    people, places = ([name.replace("_", " ") for name in sorted(found[k])] for k in ("18", "15"))
    people, places = (
        [name.lower() for name in names if NAME.fullmatch(name) and all(map(_is_word, name.lower().split()))]
        for names in (people, places)
    )
    counts = (line.split("%")[0] for line in (directory / COUNTS).read_text(encoding="latin-1").splitlines())
    words = sorted({word for word in counts if re.fullmatch("[a-z]{3,14}", word) and _is_word(word)})
    surnames = [name for name in people if " " not in name]
    return {"who": people, "surname": surnames, "town": places, "word": words}


def _wordnet(directory: str | Path) -> Path:
    directory = Path(directory)
    for name in (*WORDNET_FILES, COUNTS):
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory} has no {name}: give the directory of WordNet 3's data files "
                "(the Debian package wordnet-base puts it at /usr/share/wordnet)"
            )
    return directory


def _clean(text: str) -> str | None:
    """One example sentence in the alphabet of the training texts, or None if it is not fit to be read."""
    text = text.replace("`", "'").replace("\u2019", "'")
    text = re.sub(r"\s*(?:--+|\s-\s|[;:])\s*", ", ", text).replace("-", " ")
    text = re.sub(r"\s+([,.?!])", r"\1", " ".join(text.split())).strip(" ,")
    words = re.findall(r"[A-Za-z']+", text)
    if any(len(word) > 1 and word.isupper() for word in words):  # acronyms and Roman numerals
        return None
    text, words = text.lower(), [word.lower() for word in words]
    readable = (
        ALPHABET.fullmatch(text)
        and 2 <= len(words) <= MAX_WORDNET_WORDS
        and len(text) <= MAX_CHARS
        and not re.search(r"[,.?!](?=[^ ])|[,.?!] ?[,.?!]|^[.?!]", text)  # "p.m.", "wait ...", "?!"
        and not re.search(r"(?<![a-z])'|'(?![a-z])", text)  # quotation marks inside a quotation
        and all(_is_word(word) for word in words)
    )
    return text if readable else None


def _is_word(word: str) -> bool:
    if len(word) == 1:
        return word in "aio"
    return word not in ABBREVIATIONS and (word in VOWELLESS or re.search("[aeiouy]", word) is not None)


# ---------------------------------------------------------------------------------------------- numbers

SMALL = [spell_out(str(n)) for n in range(100)]


def _words(n: int) -> str:
    """A whole number below a thousand million in words: 342 -> "three hundred and forty two"."""
    if n < 100:
        return SMALL[n]
    for size, name in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if n >= size:
            rest = n % size
            link = " and " if size == 100 or rest < 100 else " "
            return f"{_words(n // size)} {name}" + (link + _words(rest) if rest else "")
    raise AssertionError(n)


def _ordinal(n: int) -> str:
    return spell_out(f"{n}th")


def _year(rng: random.Random) -> str:
    year = rng.choice((rng.randrange(1700, 2000), rng.randrange(1950, 2000), rng.randrange(2000, 2040)))
    century, rest = divmod(year, 100)
    if 2000 <= year < 2010:
        return _words(year)
    end = "hundred" if rest == 0 else f"oh {_words(rest)}" if rest < 10 else _words(rest)
    return f"{_words(century)} {end}"


def _number(rng: random.Random) -> str:
    """Any number: each size as often as the next, half of them round."""
    size = 10 ** rng.randrange(1, 9)
    return _words(
        rng.randrange(1, 10) * size if rng.random() < 0.5 else rng.randrange(max(2, size // 10), size)
    )


def _clock(rng: random.Random) -> str:
    hour = SMALL[rng.randrange(1, 13)]
    minutes = rng.choice(("five", "ten", "a quarter", "twenty", "twenty five"))
    return rng.choice(
        (
            f"{hour} o'clock",
            f"{hour} o'clock",
            f"half past {hour}",
            f"{minutes} {rng.choice(('past', 'to'))} {hour}",
            f"{hour} {rng.choice(('fifteen', 'thirty', 'forty five', 'twenty', 'ten', 'fifty'))}",
            f"{hour} in the {rng.choice(('morning', 'afternoon', 'evening'))}",
        )
    )


def _letters(rng: random.Random) -> str:
    return " ".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randrange(3, 6)))


NUMBERS: dict[str, Callable[[random.Random], str]] = {
    "few": lambda rng: _words(rng.randrange(2, 13)),
    "age": lambda rng: _words(rng.randrange(13, 100)),
    "hundreds": lambda rng: _words(rng.randrange(100, 1000)),
    "number": _number,
    "nth": lambda rng: _ordinal(rng.randrange(1, 32)),
    "year": _year,
    "clock": _clock,
    "letter": lambda rng: rng.choice("abcdefghijklmnopqrstuvwxyz"),
    "letters": _letters,
    "digits": lambda rng: " ".join(SMALL[rng.randrange(10)] for _ in range(rng.randrange(3, 8))),
    "price": lambda rng: spell_out(f"${rng.randrange(1, 200)}.{rng.randrange(100):02}"),
    "time": lambda rng: spell_out(
        f"{rng.randrange(1, 13)}:{rng.randrange(0, 60, 5):02}{rng.choice(('', ' a.m.', ' p.m.'))}"
    ).rstrip(" ."),
    "percent": lambda rng: spell_out(f"{rng.randrange(1, 101)}%"),
    "measure": lambda rng: spell_out(
        f"{rng.randrange(1, 100)}{rng.choice(('', f'.{rng.randrange(1, 10)}'))} "
        f"{rng.choice(('kg', 'km', 'cm', 'm', 'miles', 'pounds', 'grams', 'liters', 'inches'))}"
    ),
    "count": lambda rng: spell_out(f"{rng.choice((rng.randrange(20, 1000), 100 * rng.randrange(10, 99)))}"),
}

# ---------------------------------------------------------------------------------------------- grammar


@cache
def _tables(grammar: Path) -> tuple[dict[str, list[str]], list[list[str]], list[int]]:
    """A grammar: slots and what may fill them, the sentences of each kind, the weights of the kinds."""
    text = re.sub(r"^#.*\n", "", grammar.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\n +", " ", text).splitlines()
    tables: dict[str, list[tuple[str, list[str]]]] = {}
    for line in filter(None, lines):
        if line.startswith("["):
            rows = tables[line.strip("[]")] = []
        else:
            name, fills = line.split(":", 1)
            rows.append((name, [fill.strip() for fill in fills.split("|")]))
    forms = ("do", "does", "did", "doing", "done")
    slots = dict(tables["slots"])
    for verb, fills in tables.get("verbs", ()):
        for form, word in zip(forms, verb.split(), strict=True):
            slots.setdefault(form, []).extend(f"{word} {fill}" for fill in fills)
    weights = [int(name.split()[0]) for name, _ in tables["sentences"]]
    return slots, [sentences for _, sentences in tables["sentences"]], weights


def _expand(text: str, slots: dict[str, list[str]], rng: random.Random) -> str:
    """A sentence or a part of one with every `{slot}` filled; `{slot+}` is its plural."""

    def fill(match: re.Match) -> str:
        name, plural = match.groups()
        if name in NUMBERS:
            return NUMBERS[name](rng)
        filled = _expand(rng.choice(slots[name]), slots, rng)
        return _plural(filled) if plural else filled

    return re.sub(r"\{(\w+)(\+?)\}", fill, text)


PLURALS = {"mouse": "mice", "wolf": "wolves", "knife": "knives", "deer": "deer", "sheep": "sheep"}
PLURALS |= {"piece of paper": "pieces of paper"}


def _plural(noun: str) -> str:
    if noun in PLURALS:
        return PLURALS[noun]
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search(r"(s|x|ch|sh)$", noun) else "s")


def _article(match: re.Match) -> str:
    word = match[1]
    if len(word) == 1:  # a letter, by its name
        return f"{'an' if word in 'aefhilmnorsx' else 'a'} {word}"
    vowel = word[0] in "aeiou" and not re.match(r"(uni|use|usu|euro|one)", word)
    return f"{'an' if vowel else 'a'} {word}"


def everyday(n: int, seed: int) -> list[str]:
    """`n` different everyday sentences of 1 to 14 words, drawn by `seed`: no two have the same words.

    Questions end in "?", one statement in two in a full stop.
    """
    return _sentences(n, seed, *_tables(GRAMMAR), MAX_EVERYDAY_WORDS)


def rare(n: int, seed: int, names: dict[str, list[str]]) -> list[str]:
    """`n` different sentences of at most 24 words with `names` (`wordnet_names`) and numbers, likewise."""
    slots, kinds, weights = _tables(RARE)
    return _sentences(n, seed, _tables(GRAMMAR)[0] | slots | names, kinds, weights, MAX_RARE_WORDS)


def _sentences(
    n: int,
    seed: int,
    slots: dict[str, list[str]],
    kinds: list[list[str]],
    weights: list[int],
    most_words: int,
) -> list[str]:
    if n < 0:
        raise ValueError(f"n is {n}, but a number of sentences is 0 or more")
    rng = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < n:  # ends: the grammar makes thousands of millions
        text = _expand(rng.choice(rng.choices(kinds, weights)[0]), slots, rng)
        text = re.sub(r"\ba~ (\w+)", _article, text)
        text = text if text.endswith("?") else text + "." * rng.randrange(2)
        words = _key(text)
        doubled = re.search(r"\b(\w+)(?:,| and| or| to| than) \1\b", text)  # "tea or tea?"
        if not doubled and len(text) <= MAX_CHARS and words.count(" ") < most_words:
            found.setdefault(words, text)
    return list(found.values())


# ---------------------------------------------------------------------------------------------- together


def _key(text: str) -> str:
    """A sentence's words, by which two texts are compared: without case and punctuation."""
    return " ".join(re.findall(r"[a-z']+", text.lower().replace("\u2019", "'")))


def held_out() -> list[str]:
    """The sentences by which the voice is judged (`benchmarks.intelligibility`), numbers in words. It must
    not learn them.
    """
    return [spell_out(line) for file in (HELD_OUT, HARDER) for line in file.read_text("utf-8").splitlines()]


def training_texts(
    wordnet: str | Path, n_everyday: int, n_rare: int, seed: int, without: Iterable[str]
) -> list[str]:
    """WordNet's sentences, `n_everyday` everyday sentences and `n_rare` with rare words, shuffled by
    `seed`; one text in 20 joins two.

    No text has the same words as another one, nor as one in `without`: case and punctuation do not count, and
    neither half of a joined text is in `without`. So up to `n_everyday` of everyday's sentences are there.
    """
    rng = random.Random(seed)
    taken = {_key(text) for text in without}

    def new(text: str) -> bool:
        key = _key(text)
        return key not in taken and not taken.add(key)

    texts = [t if t[-1] in ".?!" else t + "." * rng.randrange(2) for t in wordnet_sentences(wordnet)]
    texts += everyday(n_everyday, seed) + rare(n_rare, seed, wordnet_names(wordnet))
    texts = list(filter(new, texts))
    joined = filter(new, _pairs(texts, len(texts) // (JOINED_SHARE - 1), rng))
    texts += list(joined)
    rng.shuffle(texts)
    return texts


def _pairs(texts: list[str], n: int, rng: random.Random) -> list[str]:
    """`n` texts of two short sentences each, parted by a comma or by the first one's full stop."""
    longest = (MAX_JOINED_CHARS - 2) // 2
    short = [text for text in texts if len(text) <= longest]
    pairs = []
    for _ in range(n if len(short) > 1 else 0):
        first, second = rng.sample(short, 2)
        if first[-1] not in "?!":
            first = first.rstrip(".") + rng.choice(",.")
        pairs.append(f"{first} {second}")
    return pairs
