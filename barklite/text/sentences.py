"""Splits a text into sentences, and sentences that are too long for Bark into shorter parts.

The rules do not need to know the language. The main clue is case: a sentence does not begin with a lower-case
letter (`"Really?" she asked.`, `etc. and so on`), so abbreviations matter only before capitals and numbers.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CUE = r"\[[^][]+\]"  # [laughs]
_SONG = r"♪[^♪]+♪+"
_CLOSE = r"""["'”’“‘»«›‹)\]}*_]"""  # “ closes „German“ and « closes »German«

# Possible sentence ends: a song, a mark that needs no space after it ("wide"), a mark that does. Cues match
# too, so that marks inside them do not.
_END = re.compile(
    rf"""{_CUE} | (?P<song>{_SONG})
    | (?P<wide>(?:[.!?…]*[。！？｡।॥]|．(?![\dA-Za-z]))[.!?…。！？｡।॥]*[”’」』）】》〉)\]]*)
    | (?P<mark>[.!?…؟۔]+(?:\s[.!?…](?![\w.!?…]))*)(?P<close>(?:{_CLOSE}|\s»(?!\w))*)(?=(?P<space>\s?))
    """,
    re.VERBOSE,
)
# The next song, initial or word, after marks and cues; "" if there is none nearby.
_NEXT = re.compile(rf"(?:{_CUE}|[^\w♪]|_|♪(?![\s_]{{0,3}}[^\W_])){{0,80}}(♪|[^\W\d_]\.|[^\W_]{{0,15}})")
_LAST = re.compile(r"""[^\s—–(\[{"“„«‹‘¿¡/*_]*$""")
_LIST_ITEM = re.compile(r"[-*•‣◦]\s|\d{1,3}[.)]\s|♪\s*[^\s♪]")

# Abbreviations, in the order en de fr es it pt pl tr ru hi. Korean, Japanese and Chinese have none.
_BEFORE_WORDS = _words("""
    Mr Mrs Ms Mx Messrs Dr Prof Rev Hon Gen Col Maj Capt Lt Sgt Cpl Cmdr Adm Gov Sen Rep Pres Mt Ft vs cf
    viz approx ca e.g i.e Hr Hrn Fr Frl Dipl Ing Hl ex bzw vgl bspw evtl ggf inkl exkl zzgl sog geb z.B d.h
    u.a i.d.R MM Mme Mmes Mlle Mlles Mgr Pr Ste Sra Srta Sres Dra Dres Dña Lic Arq Gral Cnel Av Avda Sto Sta
    EE p.ej Sig Sigg Sig.ra Dott Dott.ssa Prof.ssa Avv Mons Profa Exmo Exma Eng prof dr hab inż mgr ks św ul
    im np tzn tj tzw wg zob płk pt Doç Sn Yrd Öğr Gör Arş Hz bkz örn проф акад тов ул им св просп пл обл
    напр ср Дж т.е т.к т.н डॉ प्रो पं कु ए बी सी डी एफ एच जे एल एम एन ओ पी आर एस टी यू वी
""")
_BEFORE_NUMBERS = _words("""
    no nos vol fig figs pp al ch chap sec art eq tel Rs Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec Okt
    Dez nr Bd Abb Kap Tab núm pág págs cap pag str rys godz ur rozdz стр гл рис тел табл ст रु
""")
_BEFORE_NAMES = _words("St Sr Jr Inc Ltd Co Corp Bros")
_MAY_END = _words("a.m p.m т.д т.п")  # before a capital they end the sentence
# Words that begin a sentence, not a name: `in the U.S. He left`, but `the U.S. Army`.
_STARTERS = _words("""
    the an i he she it we you they this that these those there then but and or so if when what who why how
    in on at for from with after as my your his her our their its is are was do did not no yes many most
    some all one however although because while since now here der die das er sie es wir ich ein eine und
    aber dann il elle nous vous ils on ce mais et el la los las ella pero un una ma lui lei ele ela mas ale
    ona bu ve ama он она оно они это я мы вы и но в на а что как
""")
_INITIALS = re.compile(r"[^\W\d_]|(?:[^\W\d_]{1,2}\.-?)+[^\W\d_]{1,2}")  # J  U.S  J.-P  Ph.D
_UNIT = re.compile(r"[\dIVX]\s?[^\W\d_]$")  # 5 m.  XX в.
_ENUMERATOR = re.compile(r"\W{0,3}(?:\d{1,3}|[IVX]{1,5}|[A-Za-z])(?:\.\d{1,3})*")  # 1. Milk
_GERMAN_ORDINAL = re.compile(  # am 3. Oktober
    r"\b(?:am|de[rmns]|die|das|im|vom|zum|zur|bis|ab|seit|eine?[rmns]?|jede[rmns]?)\s\d{1,2}$", re.IGNORECASE
)
_GERMAN_MONTHS = _words("""
    Januar Jänner Februar März April Mai Juni Juli August September Oktober November Dezember Jahrhundert
""")


def split(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Split `text` into sentences, in order; all parts satisfy `fits` (for example, at most 256 tokens).

    Only white space is lost. A blank line ends a sentence; [cues] and ♪ songs ♪ stay whole. A sentence that
    does not fit is cut at inner marks, else clauses, else words, else characters; each part of a song gets
    its own ♪. A single character that does not fit is returned anyway. `fits` must be monotone: if it accepts
    a text, it accepts the text without its last words.
    """
    pieces = []
    cased = text != text.lower()
    for paragraph in _paragraphs(text):
        for start, end in pairwise([0, *_ends(paragraph, cased), len(paragraph)]):
            sentence = paragraph[start:end].strip()
            pieces += [sentence] if fits(sentence) else _fitted(sentence, fits)
    return pieces


# --- sentences ----------------------------------------------------------------------------------------------


def _paragraphs(text: str) -> Iterator[str]:
    """Split at blank lines and normalise white space. A list item, a line of a song and a speaker (`MAN:`)
    begin a paragraph of their own; lines without words join a neighbour.
    """
    lines, spoken, blank = [], False, False
    for line in text.splitlines():
        line = " ".join(line.split())
        words = any(map(str.isalnum, line))
        item = _LIST_ITEM.match(line) or (":" in line and line.partition(":")[0].isupper())
        if spoken and words and (blank or item):
            yield "\n".join(lines)
            lines, spoken = [], False
        if line:
            lines.append(line)
        spoken, blank = spoken or words, not line or (blank and not words)
    if lines:
        yield "\n".join(lines)


def _ends(text: str, cased: bool) -> list[int]:
    """Return the positions in `text` where sentences end. cased: the text uses upper case."""
    ends, start, quotes, seen = [], 0, 0, 0
    for mark in _END.finditer(text):
        end = mark.end()
        quotes, seen = quotes + text.count('"', seen, end), end
        if mark["wide"] and quotes % 2 and text[end : end + 1] == '"':
            end += 1
        word = _NEXT.match(text, end)[1]
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
    """Whether a full stop marks an abbreviation and does not end the sentence.

    before: the last 40 characters of the sentence so far. after: the next word.
    """
    starts = after.lower() in _STARTERS
    if _ENUMERATOR.fullmatch(before) or (_GERMAN_ORDINAL.search(before) and not starts):
        return True
    word = _LAST.search(before).group().lstrip("'’")
    if word.isdigit():
        return len(word) < 3 and after in _GERMAN_MONTHS
    if word.lower() in _MAY_END or (word.islower() and _UNIT.search(before)):
        return False
    words = {word, word.lower(), re.split("['’]", word)[-1]}  # dell'Avv. Bianchi
    if word.isupper() or not cased:
        words.add(word.capitalize())
    if words & _BEFORE_WORDS or (words & _BEFORE_NUMBERS and re.match(r"\d|[IVX]{2}", after)):
        return True
    initials = _INITIALS.fullmatch(word) and word.lower() != word.upper()  # 네. is a Korean sentence
    return bool(initials or words & _BEFORE_NAMES) and not starts


# --- sentences that are too long ----------------------------------------------------------------------------


def _seams(pattern: str, whole: str = f"{_CUE}|{_SONG}|") -> Callable[[str], list[int]]:
    """Return a function that finds the cut positions of a piece: after `pattern`, but not inside `whole`."""
    found = re.compile(f"{whole}(?P<seam>{pattern})").finditer
    return lambda piece: [match.end() for match in found(piece) if match["seam"]]


def _graphemes(piece: str) -> list[int]:
    """Return cut positions between grapheme clusters. Closing punctuation stays with the one before."""
    cuts, flags = [], 0
    for i, (left, right) in enumerate(pairwise(piece), 1):
        flags = flags + 1 if "🇦" <= left <= "🇿" else 0
        joined = (
            unicodedata.category(right) in ("Mn", "Mc", "Me", "Cf", "Po", "Pe", "Pf")
            or left == "\u200d"
            or unicodedata.combining(left) == 9  # a virama joins the next consonant
            or "🏻" <= right <= "🏿"
            or "\u1160" <= right <= "\u11ff"  # vowel or final of a Korean syllable
            or (flags % 2 and "🇦" <= right <= "🇿")
        )
        if not joined:
            cuts.append(i)
    return cuts


_SPACE = r"\s(?=\S*\w|[♪\[])"  # a lone mark stays with the word before
_SOFT = (  # best cuts first: inner marks, then clauses; a speaker's `MAN:` stays with the words that follow
    lambda piece: _ends(piece, cased=False),
    _seams(rf"(?:[,;،؛…]|(?<![A-ZА-Я0-9]):){_CLOSE}*\s|[、，；：][」』）]*|(?<=\w)—(?=\w)|\s(?=[–—(«“„])"),
)
_LINES = (_seams("\n"), *_SOFT)  # for songs
_HARD = (_seams(_SPACE), _seams(_SPACE, whole=""), _graphemes, lambda piece: range(1, len(piece)))


def _fitted(sentence: str, fits: Callable[[str], bool]) -> Iterator[str]:
    """Split a sentence that does not fit into parts that do. A song is a part of its own."""
    for part in map(str.strip, re.split(r"(?<!\S)(♪+[^♪]+♪+)(?!\S)", sentence)):
        if part:
            yield from [part] if fits(part) else _sung(part, fits) or _cut(part, fits, _SOFT)


def _sung(part: str, fits: Callable[[str], bool]) -> list[str]:
    """Split a song into parts, each with its own ♪; [] if they do not fit or `part` is not a song."""
    if not (song := re.fullmatch("(♪+)([^♪]+)(♪+)", part)):
        return []
    enclosed = f"{song[1]} {{}} {song[3]}".format
    parts = [enclosed(part) for part in _cut(song[2].strip(), lambda part: fits(enclosed(part)), _LINES)]
    return parts if all(map(fits, parts)) else []


def _cut(piece: str, fits: Callable[[str], bool], soft: tuple) -> Iterator[str]:
    """Split `piece` into parts that fit. Each is the longest that ends with a word, shortened to the last of
    the best kind of cut in it. Only a word that does not fit is cut inside, by the later entries of _HARD.
    """
    seams = [seam(piece) for seam in soft]
    start = 0
    ahead = [(len(piece), -1)]  # possible (end of a part, index into _HARD), the nearest last
    while ahead:
        n = _longest(lambda n: fits(piece[start : ahead[-n][0]].strip()), len(ahead))  # noqa: B023
        end, level = ahead[-max(n, 1)]
        if not n and level + 1 < len(_HARD):
            cuts = [start + cut for cut in _HARD[level + 1](piece[start:end])]
            ahead[-1:] = [(cut, level + 1) for cut in [end, *reversed(cuts)]]
            continue
        if n < len(ahead):
            softest = (cuts[i - 1] for cuts in seams if (i := bisect_right(cuts, end)))
            end = next((cut for cut in softest if cut > start and fits(piece[start:cut].strip())), end)
        if part := piece[start:end].strip():
            yield part
        start = end
        while ahead and ahead[-1][0] <= end:
            ahead.pop()


def _longest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest n up to `most` that fits, 0 if none does. Galloping search."""
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
