"""A text of any length in pieces that Bark can speak: its sentences, cut further only where one is too long.

Nothing here knows which language it reads. What helps most is case: after a mark a lower-case word goes on
(`"Really?" she asked.`, `etc. and so on`), so abbreviations matter only before capitals and numbers.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator

_CUE = r"\[[^][]+\]"  # [laughs]
_SONG = r"♪[^♪]+♪+"
_CLOSE = r"""["'”’“‘»«›‹)\]}*_]"""  # “ closes „German“ and « closes »German«

# What may end a sentence. Cues are found so that nothing inside them is; songs end like sentences.
_END = re.compile(
    rf"""{_CUE} | (?P<song>{_SONG})
    | (?P<wide> (?:[.!?…]*[。！？｡।॥] | ．(?![\dA-Za-z])) [.!?…。！？｡।॥]* [”’」』）】》〉)\]]* )  # no space follows
    | (?P<mark> [.!?…؟۔]+ (?:\s[.!?…](?![\w.!?…]))* )  (?P<close> (?:{_CLOSE} | \s»(?!\w))* ) (?=(?P<space>\s?))
    """,
    re.VERBOSE,
)
_NEXT_WORD = re.compile(
    rf"(?:{_CUE}|[^\w♪]|_|♪(?!\s?\w)){{0,80}}(♪|[^\W\d_]\.|[^\W_]{{0,15}})"
)  # or an initial
_LAST_WORD = re.compile(r"""[^\s—–(\[{"“„«‹‘¿¡/*_]*$""")
_LIST_ITEM = re.compile(r"[-*•‣◦]\s|\d{1,3}[.)]\s|♪\s*[^\s♪]")

# Never the last word of a sentence, by language: en de fr es it pt pl tr ru hi. (ja, ko and zh have none.)
_BEFORE_WORDS = frozenset(
    """
    Mr Mrs Ms Mx Messrs Dr Prof Rev Hon Gen Col Maj Capt Lt Sgt Cpl Cmdr Adm Gov Sen Rep Pres Mt Ft
    vs cf viz approx ca e.g i.e
    Hr Hrn Fr Frl Dipl Ing Hl hl bzw vgl bspw evtl ggf inkl exkl zzgl sog geb z.B d.h u.a i.d.R
    MM Mme Mmes Mlle Mlles Mgr Pr Ste
    Sra Srta Sres Dra Dres Dña Lic Arq Gral Cnel Av Avda Sto Sta EE p.ej
    Sig Sigg Sig.ra Dott Dott.ssa Prof.ssa Avv Mons
    Profa Exmo Exma Eng
    prof dr hab inż mgr ks św ul im np tzn tj tzw wg zob płk
    Doç Sn Yrd Öğr Gör Arş Hz Bkz bkz Örn örn
    проф акад тов гр ул им см св просп пл обл напр ср Дж т.е т.к т.н
    डॉ प्रो पं कु ए बी सी डी एफ एच जे एल एम एन ओ पी आर एस टी यू वी
    """.split()
)
_BEFORE_NUMBERS = frozenset(
    """
    No no Nos nos Vol vol Fig fig Figs pp al Ch ch Chap chap Sec sec Art art Eq Ex Tel tel Rs
    Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec Okt Dez
    Nr nr Bd Abb Kap Tab núm pág págs cap str rys godz ur rozdz стр гл рис тел табл ст रु
    """.split()
)
_NUMBER = re.compile(r"\d|[IVX]{2,}\b")
# These begin a sentence, not a name: `in the U.S. He left`, but `the U.S. Army`.
_STARTERS = frozenset(
    """
    the an i he she it we you they this that these those there then but and or so if when what who why how where
    in on at for from with after as my your his her our their its is are was do did not no yes
    der die das er sie es wir ich ein eine und aber dann il elle nous vous ils on ce mais et
    el la los las ella pero un una ma è lui lei ele ela mas ale ona bu ve ama
    он она оно они это я мы вы и но в на а что как
    """.split()
)
_INITIALS = re.compile(r"[^\W\d_]|(?:[^\W\d_]{1,2}\.-?)+[^\W\d_]{1,2}")  # J  U.S  J.-P  Ph.D
_MAY_END = frozenset(["a.m", "p.m", "т.д", "т.п"])  # and do, before a capital
_UNIT = re.compile(r"[\dIVX]\s?[^\W\d_]{1,2}$")  # 5 m.  XX в.
_ENUMERATOR = re.compile(r"\W{0,3}(?:\d{1,3}|[IVX]{1,5}|[A-Za-z])(?:\.\d{1,3})*")  # 1. Milk
_GERMAN_ORDINAL = re.compile(  # am 3. Oktober
    r"\b(?:am|de[rmns]|die|das|im|vom|zum|zur|bis|ab|seit|eine?[rmns]?|jede[rmns]?)\s\d{1,2}$", re.IGNORECASE
)
_GERMAN_MONTHS = frozenset(
    "Januar Jänner Februar März April Mai Juni Juli August September Oktober November Dezember Jahrhundert".split()
)


def split(text: str, fits: Callable[[str], bool]) -> list[str]:
    """The sentences of `text`, in order, each such that `fits` (it has few enough tokens).

    Nothing is lost but white space. A blank line ends a sentence; [cues] and ♪ songs ♪ stay whole. A sentence
    that does not fit is cut at inner marks, then clauses, words and characters; a song's parts each get their
    own ♪. Only a character that does not fit by itself is returned although it does not. If a text fits, its
    beginning must.
    """
    pieces = []
    cased = text != text.lower()
    for paragraph in _paragraphs(text):
        ends = _ends(paragraph, cased)
        for start, end in zip([0, *ends], [*ends, len(paragraph)], strict=True):
            sentence = paragraph[start:end].strip()
            pieces += [sentence] if fits(sentence) else _fitted(sentence, fits, _SEAMS)
    return pieces


# --- sentences ----------------------------------------------------------------------------------------------


def _paragraphs(text: str) -> Iterator[str]:
    """Parts between blank lines, single white space within; a line of marks only joins its neighbour.

    An item of a list, a line of a song and a speaker (`MAN:`) begin their own.
    """
    lines, spoken, blank = [], False, False
    for line in text.splitlines():
        line = " ".join(line.split())
        if not line:
            blank = True
            continue
        has_words = any(map(str.isalnum, line))
        begins = blank or _LIST_ITEM.match(line) or (":" in line and line.partition(":")[0].isupper())
        if begins and spoken and has_words:
            yield "\n".join(lines)
            lines, spoken = [], False
        lines.append(line)
        spoken, blank = spoken or has_words, False
    if lines:
        yield "\n".join(lines)


def _ends(text: str, cased: bool) -> list[int]:
    """Where sentences end inside `text`; `cased`: a new one does not begin with a lower-case letter."""
    ends, start, quotes, seen = [], 0, 0, 0
    for mark in _END.finditer(text):
        end = mark.end()
        quotes, seen = quotes + text.count('"', seen, end), end
        if mark["wide"] and text[end : end + 1] == '"' and quotes % 2:
            end += 1
        word = _NEXT_WORD.match(text, end)[1]
        if not word:  # only marks follow
            continue
        lower = word[0].islower() and not word[1:2].isupper()  # iPhone may begin a sentence
        if mark["song"]:
            goes_on = lower or not text[end].isspace()
        elif mark["wide"]:  # 「行こう。」と言った。
            after = text[end : end + 3].lstrip()
            goes_on = after[0] in "、，；：,;:" or (
                mark["wide"][-1] in "」』" and after.startswith(("と", "って"))
            )
        elif mark["mark"] and mark["space"]:
            ellipsis = mark["mark"].startswith(("..", "…"))
            goes_on = (lower and (cased or ellipsis or mark["close"])) or (ellipsis and word == "I")
            if mark["mark"] == "." and not mark["close"]:
                before = text[max(start, mark.start() - 40) : mark.start()].lstrip()
                goes_on = goes_on or _is_abbreviated(before, word, cased)
        else:  # a cue, or a dot as in 3.14 and www.example.org
            continue
        if not goes_on and any(map(str.isalnum, text[start:end])):
            ends.append(end)
            start = end
    return ends


def _is_abbreviated(before: str, after: str, cased: bool) -> bool:
    """Whether a full stop belongs to the word before it only. `before`: the sentence so far, its last 40
    characters; `after`: the next word.
    """
    starts = after.lower() in _STARTERS
    if _ENUMERATOR.fullmatch(before) or (_GERMAN_ORDINAL.search(before) and not starts):
        return True
    word = _LAST_WORD.search(before).group().lstrip("'’")
    if word.isdigit():
        return len(word) < 3 and after in _GERMAN_MONTHS
    if word.lower() in _MAY_END or (word.islower() and _UNIT.search(before)):
        return False
    words = {word, word.lower(), re.split("['’]", word)[-1]}  # dell'Avv. Bianchi
    if word.isupper() or not cased:
        words.add(word.capitalize())
    if words & _BEFORE_WORDS or (words & _BEFORE_NUMBERS and _NUMBER.match(after)):
        return True
    initials = _INITIALS.fullmatch(word) and word.lower() != word.upper()  # 네. is a Korean sentence
    return bool(initials or word in ("St", "Sr")) and not starts


# --- sentences that are too long ----------------------------------------------------------------------------


def _seams(pattern: str, whole: str = f"{_CUE}|{_SONG}|") -> Callable[[str], list[int]]:
    """A function that finds where a piece may be cut: after `pattern`, outside what stays `whole`."""
    found = re.compile(f"{whole}(?P<seam>{pattern})").finditer
    return lambda piece: [match.end() for match in found(piece) if match["seam"]]


def _graphemes(piece: str) -> list[int]:
    """Between characters, but for what belongs to the one before: accents, ZWJ sequences, flags, marks."""
    cuts, flags = [], 0
    for i, (left, right) in enumerate(zip(piece, piece[1:]), 1):  # noqa: B905
        flags = flags + 1 if "🇦" <= left <= "🇿" else 0
        joined = (
            unicodedata.category(right) in ("Mn", "Mc", "Me", "Cf", "Po", "Pe", "Pf")
            or left == "\u200d"
            or unicodedata.combining(left) == 9  # a virama, before the rest of its conjunct
            or "🏻" <= right <= "🏿"
            or "\u1160" <= right <= "\u11ff"  # the rest of a Korean syllable
            or (flags % 2 and "🇦" <= right <= "🇿")
        )
        if not joined:
            cuts.append(i)
    return cuts


_SPACE = r"\s(?=\S*\w|[♪\[])"  # a mark that stands alone stays with the word before
_SEAMS = (  # the softest first
    lambda piece: _ends(piece, cased=False),
    _seams(  # clauses; a speaker's `MAN:` stays with what is said
        rf"(?:[,;،؛…]|(?<![A-ZА-Я0-9]):){_CLOSE}*\s|[、，；：][」』）]*|(?<=\w)—(?=\w)|\s(?=[–—(«“„])"
    ),
    _seams(_SPACE),
    _seams(_SPACE, whole=""),
    _graphemes,
    lambda piece: [*range(1, len(piece))],
)


def _fitted(piece: str, fits: Callable[[str], bool], seams: tuple) -> Iterator[str]:
    """`piece`, which does not fit, in parts that do: as few as the first of `seams` allows, and where one of
    those does not fit either, it by the other seams.
    """
    if re.fullmatch("♪+[^♪]+♪+", piece):
        song = piece.strip("♪ \n")
        parts = list(_fitted(song, lambda part: fits(f"♪ {part} ♪"), (_seams("\n"), *_SEAMS)))
        if all(fits(f"♪ {part} ♪") for part in parts):
            yield from (f"♪ {part} ♪" for part in parts)
            return
    if not seams:
        yield piece
        return
    cuts = [0, *seams[0](piece), len(piece)]
    if len(cuts) == 2:
        yield from _fitted(piece, fits, seams[1:])
        return
    i = 0
    while i < len(cuts) - 1:
        n = _longest(lambda n: fits(piece[cuts[i] : cuts[i + n]].strip()), len(cuts) - 1 - i)  # noqa: B023
        part = piece[cuts[i] : cuts[i + max(n, 1)]].strip()
        if part:
            yield from [part] if n else _fitted(part, fits, seams[1:])
        i += max(n, 1)


def _longest(fits: Callable[[int], bool], most: int) -> int:
    """The largest n up to `most` that fits, 0 if none does; what is longer than one that does not fit does
    not.
    """
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
