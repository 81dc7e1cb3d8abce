"""Normalises written English for the built-in voice: numbers, symbols and abbreviations become words.

The output of `spell_out` has only lower-case letters, spaces, apostrophes inside words, and `, . ? !`.
Acronyms become single letters (`the u s a`). There are three steps: characters to plain ASCII, digits and
symbols to words, then abbreviations and acronyms. `spell_out` is idempotent.

Every pattern takes linear time: none can start in the middle of a run that it repeats without a limit.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from .quantities import (
    CURRENCY,
    DAY,
    IN_YEAR,
    MONTH,
    NUMBER,
    RULERS,
    UNITS,
    say_date,
    say_decade,
    say_digits,
    say_fraction,
    say_money,
    say_named_date,
    say_number,
    say_ordinal,
    say_ruler,
    say_slashed_date,
    say_small,
    say_unit,
    say_year,
    table,
    word_set,
)


def spell_out(text: str) -> str:
    """Return `text` as letters, spaces, inner apostrophes and `, . ? !`, without leading or doubled marks.

    Other scripts, emoji and brackets are dropped; "" if nothing is left.
    """
    text = " ".join("".join(map(_plain, text)).split()).rstrip(" ):;-–")
    shouted = text.upper() == text
    for pattern, write in _RULES:
        text = pattern.sub(write, text)
    text = " ".join(text.split())
    for _ in range(2):  # twice: merging marks turns `(Mr).` into `Mr.`
        text = _DOTTED.sub(_dotted, text)
        text = _STOPPED.sub(_stopped, text)
        text = _MARKS.sub(_mark, text).strip(" ")
    text = text.lstrip(" ,.?!")
    if not shouted:
        text = _SHOUTED.sub(_unshout, text)
    return _WORD.sub(lambda match: _word(match[0], shouted), text)


def skipped(text: str) -> list[str]:
    """Return the distinct emoji and foreign letters of `text`, which `spell_out` drops, in order. Dropped
    spaces, marks, joiners and signs are not reported.
    """
    found = (
        c
        for c in text
        if not _plain(c).strip()
        and unicodedata.category(c) in ("Lu", "Ll", "Lt", "Lm", "Lo", "So", "Nd", "Nl", "No")
        and c not in _CHARACTERS
    )
    return list(dict.fromkeys(found))


# --- characters ---------------------------------------------------------------------------------------------

_LIGATURES = table("""
    æ: ae, Æ: AE, œ: oe, Œ: OE, ß: ss, ẞ: SS, ø: o, Ø: O, ł: l, Ł: L, đ: d, Đ: D, ð: d, Ð: D, þ: th, Þ: Th,
    ı: i, ħ: h, Ħ: H, ŋ: ng
""")
_SYMBOLS = table("""
    ²: squared, ³: cubed, №: No., §: section, ÷: divided by, ±: plus or minus, ≠: is not equal to, ≤: at most,
    ≥: at least, ∞: infinity, √: root of, π: pi, μ: micro
""")
_CHARACTERS = _LIGATURES | {symbol: f" {name} " for symbol, name in _SYMBOLS.items()}
for _alike, _one in (
    *(("’‘‛ʼ′`´", "'"), ("‐‑−", "-"), ("‒–", "–"), ("—―、", ", "), ("™®©", " "), ("°º", "°"), ("⁄", "/")),
    *(("≈", "~"), ("。", "."), *((sign, sign) for sign in "£€¥¢×")),
):
    _CHARACTERS |= dict.fromkeys(_alike, _one)


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """Convert one character to ASCII or a sign that the rules know. NFKD of whole texts would be slow."""
    if character in _CHARACTERS:
        return _CHARACTERS[character]
    if character.isascii():
        return character if character.isprintable() else " "
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):  # accents, joiners
        return ""
    space = " " if unicodedata.decomposition(character).startswith("<fraction>") else ""  # 5½
    parts = [part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part)]
    return space + "".join(
        part if part.isascii() and part.isprintable() else _CHARACTERS.get(part, " ") for part in parts
    )


# --- rules --------------------------------------------------------------------------------------------------

_SPECIAL = table("""
    24/7: twenty four seven, 9/11: nine eleven, 50/50: fifty fifty, 911: nine one one, w/o: without, w/: with,
    'n': and, C#: c sharp, c#: c sharp, Ph.D: p h d, Ph.D.: p h d
""")
_CITED = table("no: number, nos: numbers, p: page, pp: pages, vol: volume, ch: chapter, fig: figure")
_SIGNS = table("&: and, +: plus, =: equals, @: at, %: percent, °: degrees, ¢: cents")
_ENDINGS = "com|org|net|edu|gov|io|ai|co|uk|txt|pdf|html"  # of site and file names


def _mail(match: re.Match) -> str:
    """`first.last@example.com`"""
    name, place = (part.replace(".", " dot ") for part in match.groups())
    name = name.replace("_", " underscore ").replace("-", " dash ").replace("+", " plus ")
    return f"{name} at {place}"


def _groups(match: re.Match) -> str:
    return ("plus " if match[0][0] == "+" else "") + ", ".join(map(say_digits, re.findall(r"\d+", match[0])))


def _time(match: re.Match) -> str:
    hour, minute, second, half = match["hour"], match["minute"], match["second"], match["half"]
    words = [say_small(int(hour))]
    fine = [part for part in (minute, second) if part]
    if minute and (minute != "00" or second):
        words += [f"oh {say_small(int(part))}" if part[0] == "0" else say_small(int(part)) for part in fine]
    elif minute and not half:
        words.append("o'clock" if 0 < int(hour) < 13 else "hundred")
    if half:
        words += [half.lower(), "m." if match["stop"] and _ends(match) else "m"]
    return " ".join(words)


def _each(table: dict[str, str]) -> str:
    return "|".join(map(re.escape, sorted(table, key=len, reverse=True)))


Writer = Callable[[re.Match], str]


def _rule(pattern: str, write: str | Writer) -> tuple[re.Pattern, Writer]:
    """Make a rule that replaces matches of `pattern` by separate words."""
    words = write if callable(write) else lambda match: match.expand(write)
    return re.compile(pattern, re.ASCII), lambda match: f" {words(match)} "


_HALF = r" {0,2}(?P<half>[AaPp])\.? ?[Mm](?![A-Za-z'])(?P<stop>\.?)"
_CLOCK = r"(?<![\d:.])(?P<hour>[01]?\d|2[0-4])"
_RULES = [
    # URLs, addresses, smileys and fixed expressions
    _rule(r"https?://", ""),
    _rule(r"(?<![\w.+-])([\w.+-]+)@((?:[\w-]+\.)+[A-Za-z]{2,})\b", _mail),
    _rule(rf"(?<![\w.-])(?:[\w-]+\.)+(?:{_ENDINGS})\b(?!\.\w)", lambda m: m[0].replace(".", " dot ")),
    _rule(r"(?<![\w:])[:;]'?-?[()DP](?!\w)", ""),  # :-)
    _rule(r"([-=+*#@&/~])\1{2,}", ","),
    _rule(rf"(?<![\w/.,$])(?:{_each(_SPECIAL)})(?![\d/]|[.,:]\d)", lambda match: _SPECIAL[match[0]]),
    _rule(r"\b([Nn]os|No|[Pp]p?|[Vv]ol|[Cc]h|[Ff]ig)\. ?(?=\d)", lambda match: _CITED[match[1].lower()]),
    # dates and phone numbers
    _rule(
        r"(?<![\w-])([12]\d{3})-(\d\d)-(\d\d)(?![\d-])", lambda match: say_date(*match.groups()) or match[0]
    ),
    _rule(r"(?<![\d/])(\d{1,2})/(\d{1,2})/(\d{4}|\d\d)(?![\d/])", say_slashed_date),
    _rule(r"(?<![\w-])(?:(?:\+?1[-. ])?(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]|\d{3}-)\d{4}(?![\w-])", _groups),
    _rule(r"\+\d{1,3}(?:[- ]\d{2,4}){2,4}(?![\w-])|(?<![\w-])\d+(?:-\d+){2,}(?![\w-])", _groups),
    _rule(r"(?<![\d.])\d+(?:\.\d+){2,}", lambda match: " point ".join(map(say_number, match[0].split(".")))),
    # signs between numbers
    _rule(rf"(?<![\w.)%°])-(?={CURRENCY}?\.?\d)", "minus"),
    _rule(
        rf"(?:(?P<sign>{CURRENCY}) ?(?P<n>{NUMBER})(?:[-–]{CURRENCY}?(?P<to>{NUMBER}))?"
        rf"|(?<![\d.,])(?P<m>{NUMBER}) ?(?P<after>[£€¥]))"
        r"(?P<magnitude> ?(?:hundred|thousand|million|billion|trillion)\b|(?:[kKmMbBT]|bn)\b)?",
        say_money,
    ),
    _rule(rf"(?<=\d)( ?[AaPp]\.?[Mm]\.?)? ?– ?(?={CURRENCY}?\d)", r"\1 to"),
    _rule(rf"(?<=\d)( ?[AaPp]\.?[Mm]\.? ?(?=-))?- ?(?={CURRENCY}?\d)", r"\1 to"),
    _rule(r"(?<=\d[%°])[-–](?=\d)", "to"),
    _rule(r"(?<=\d) - (?=\d)", "minus"),
    _rule(r"(?<=\d) ?[×*] ?(?=\d)", "times"),
    _rule(r"(?<=\d) ?x ?(?=\d)", "by"),
    _rule(r"(?<=\w) ?> ?(?=\d)", "is greater than"),
    _rule(r"(?<=\w) ?< ?(?=\d)", "is less than"),
    _rule(r"~(?=\d)", "about"),
    _rule(r"\^(?=\d)", "to the power of"),
    _rule(r"#(?=\d)", "number"),
    _rule(r"/(?=(?:second|minute|hour|day|night|week|month|year|person)\b)", "per"),
    # numbers
    _rule(rf"\b{MONTH} {DAY}{IN_YEAR}(?![\w:]|[.,]\d)", say_named_date),
    _rule(rf"\b(?:the )?{DAY} (?:of )?{MONTH}{IN_YEAR}(?!\w)", say_named_date),
    _rule(_CLOCK + r"(?::(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?)?" + _HALF, _time),
    _rule(_CLOCK + r":(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?(?![\d:])(?P<half>)(?P<stop>)", _time),
    _rule(r"(?<=\d):(?=\d)", "to"),
    _rule(
        r"(?<![\w.,])(\d{1,3}(?:,\d{3}){1,9}|\d+)(?i:st|nd|rd|th)\b", lambda m: say_ordinal(say_number(m[1]))
    ),
    _rule(r"(?<![\d.,])(\d{3}0|\d0)'?s\b", say_decade),
    _rule(
        r"(?<![\w.])(\d{1,2})'(\d{1,2})(?:\"|(?!\w))", lambda m: f"{say_number(m[1])} foot {say_number(m[2])}"
    ),
    _rule(
        rf"(?<![\d.,/])((?:\d{{1,4}} (?=\d{{1,3}}/))?[\d.,/]*\d)( ?-?)"
        rf"({_each(UNITS)})(?![A-Za-z\d])(?:\.(?= [a-z]))?",
        say_unit,
    ),
    _rule(r"(?<![\d/.])(?:(\d{1,4}) )?(\d{1,3})/(\d{1,4})(?![\d/]|\.\d)", say_fraction),
    _rule(r"(?<![\w.,])(1[1-9]\d\d|20\d\d)(?!\d|[.,]\d)", lambda match: say_year(match[1])),
    _rule(rf"{NUMBER}|(?<!\w)\.\d+", lambda match: say_number(match[0])),
    (re.compile(r"\bAT&T\b"), lambda match: "A T and T"),
    (re.compile(rf"\b({'|'.join(RULERS)}) ([IVX]{{2,5}}|[VX](?!\.))(?!\w)"), say_ruler),
    # remaining symbols
    *(_rule(re.escape(sign), name) for sign, name in _SIGNS.items()),
    _rule(r"#(?=[A-Za-z])", "hashtag"),
    _rule(r"(?<=\w) ?/ ?(?=\w)", "slash"),
    (re.compile(r"(?<=[a-z])\(s(?:\)|$)"), lambda match: "s"),
    _rule(r"\.{2,}|--| - |[–:;()|]", ","),
    _rule(r"[^A-Za-z' ,.?!]", ""),
    _rule(r"'(?![A-Za-z])|(?<![A-Za-z])'", ""),
]


# --- abbreviations and acronyms -----------------------------------------------------------------------------

_TITLES = table("mr: mister, mrs: missus, ms: miz, dr: doctor, prof: professor")
_SHORT = _TITLES | table("""
    jr: junior, sr: senior, vs: versus, etc: et cetera, approx: approximately, dept: department,
    govt: government, ok: okay
""")  # with or without a full stop
_STOPPED_ONLY = table("""
    inc: incorporated, co: company, ltd: limited, corp: corporation, bros: brothers, gen: general,
    col: colonel, capt: captain, lt: lieutenant, sgt: sergeant, gov: governor, rev: reverend, sen: senator,
    rep: representative, ave: avenue, blvd: boulevard, rd: road, mt: mount, ft: fort, jan: january,
    feb: february, apr: april, aug: august, sept: september, oct: october, nov: november, dec: december
""")  # capitalised
_LATIN = table("eg: for example, ie: that is")
_ROMAN = table("""
    ii: two, iii: three, iv: four, vi: six, vii: seven, viii: eight, ix: nine, xi: eleven, xii: twelve
""")
# Spelled letter by letter, in upper or lower case.
_LETTERS = word_set("""
    usa uk eu fbi cia bbc cnn nbc cbs nfl nba nhl mba phd ceo cfo cto dna rna atm diy faq gdp gpu cpu http
    https www html url usb pdf sms suv tv dvd cd pc mp vip ufo api sql aka asap ibm nyc irs hiv pm rsvp bbq dj
    gps
""")
# Acronyms pronounced as words.
_SAID = word_set("""
    nasa nato aids opec fifa uefa ikea lego ram rom pin sim zip gif swat yolo visa sars mers
""")
# Ordinary words, not acronyms, when they are in capitals.
_COMMON = word_set("""
    a about again all also am and any are as ask at away baby back bad be been best big boy but buy by call
    came can car cat come cool cry cut dad damn dare day dead dear did die do dog done door down easy eat else
    end even ever evil eye far fast feel few fire five food for four free from fun game gave get girl give go
    god gone good got great had hair half hand hard has hate have he head hear hell help her here hey hi high
    him his hit hold home hope hot how huge i idea if in into is it job joy just keep kill kind know lady last
    late leave left less let lie life like line live long look lose lost lot loud love mad made make man many
    may me mean meet mind mine miss mom more most move much must my name near need new next nice no none nor
    not now of off oh old on once one only open or our out over own pay play poor put quit read real rest rich
    ride right run sad safe said same save saw say see send set she shit shut sit six slow so sold some soon
    stay step stop such sure take talk tell ten than that the them then they this time to too took top try
    turn two ugly up upon use used very wait wake walk want war was way we well went were west what when who
    whom why wide wife wild will win wish with wo wow yay yeah year yell yes yet you your
""")
# Capitalised, they begin a sentence and are not part of a name.
_STARTERS = word_set("""
    a an and are as at but did do for he her his how i if in is it its my no not now on our she so that the
    their then there these they this those to was we what when where who why will you your yes
""")
_SOUNDS = [frozenset(sound) for sound in ("hm", "m", "sh", "br", "gr", "z")]
_DOTTED = re.compile(r"(?<![A-Za-z.'])([A-Za-z](?:\.[A-Za-z])+)(?![A-Za-z'])(\.?)")
_STOPPED = re.compile(r"(?<![A-Za-z.'])([A-Za-z]+)\.(?![A-Za-z])")
_MARKS = re.compile(r"[ ,.?!]+")
_SHOUTED = re.compile(r"(?<![A-Za-z'])[A-Z']+(?: [A-Z']+)+(?![A-Za-z'])")
_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")


def _mark(match: re.Match) -> str:
    """Reduce a run of marks to the strongest."""
    return next((mark for mark in "?!.," if mark in match[0]), "") + " "


def _next_word(match: re.Match) -> str:
    return re.match(r"[A-Za-z]*", match.string[match.end() : match.end() + 40].lstrip(" '"))[0]


def _ends(match: re.Match) -> bool:
    """Whether a sentence ends with the abbreviation."""
    word, rest = _next_word(match), match.string[match.end() : match.end() + 40]
    return (word[:1].isupper() and word.lower() in _STARTERS) or not rest.strip(" ")


def _dotted(match: re.Match) -> str:
    """`e.g.` or `U.S.`"""
    letters = match[1].replace(".", "")
    stop = "." if match[2] and _ends(match) else ""
    return _LATIN.get(letters.lower(), " ".join(letters)) + stop


def _stopped(match: re.Match) -> str:
    """`Mr.` or `J.`; the full stop is kept if it ends the sentence."""
    word, ends, following = match[1], _ends(match), _next_word(match)
    name = following[:1].isupper() and not ends
    if word.lower() in _TITLES:
        return word
    if word.lower() in _SHORT:
        spoken = word
    elif word.istitle() and word.lower() in _STOPPED_ONLY:
        spoken = _STOPPED_ONLY[word.lower()]
    elif word == "St":
        spoken = "saint" if name else "street"
    elif len(word) == 1 and word.isupper() and word != "I" and name:
        spoken = word
    else:
        return match[0]
    return spoken + "." * ends


def _unshout(match: re.Match) -> str:
    words = match[0].split()
    loud = any(len(word) > 4 or (len(word) > 1 and word.lower() in _COMMON) for word in words)
    return match[0].lower() if loud else match[0]


def _word(word: str, shouted: bool) -> str:
    base, apostrophe, ending = word.partition("'")
    low, tail = base.lower(), (apostrophe + ending).lower()
    if low in _SHORT:
        return _SHORT[low] + tail
    if base.isupper() and low in _ROMAN:
        return _ROMAN[low] + tail
    if len(base) > 2 and base[-1] == "s" and base[:-1].isupper() and not tail:  # TVs
        base, low, tail = base[:-1], low[:-1], "'s"
    mute = not set(low) & set("aeiouy")
    short = len(low) < 5 and not shouted and low not in _SAID and low not in _COMMON and ending != "S"
    acronym = low in _LETTERS or (base.isupper() and (mute or short) and set(low) not in _SOUNDS)
    return (" ".join(low) if acronym and tail in ("", "'s") else low) + tail
