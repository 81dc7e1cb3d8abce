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


def _words(text: str) -> list[str]:
    return text.split()


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _table(text: str) -> dict[str, str]:
    """Parse `key: value, key: value`."""
    return dict(entry.split(": ") for entry in " ".join(text.split()).split(", "))


# --- characters ---------------------------------------------------------------------------------------------

_LIGATURES = _table("""
    æ: ae, Æ: AE, œ: oe, Œ: OE, ß: ss, ẞ: SS, ø: o, Ø: O, ł: l, Ł: L, đ: d, Đ: D, ð: d, Ð: D, þ: th, Þ: Th,
    ı: i, ħ: h, Ħ: H, ŋ: ng
""")
_SYMBOLS = _table("""
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


# --- numbers ------------------------------------------------------------------------------------------------

_ONES = _words("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
""")
_TENS = _words("_ _ twenty thirty forty fifty sixty seventy eighty ninety")
_SCALES = ("", " thousand", " million", " billion", " trillion")
_ORDINALS = _table("""
    one: first, two: second, three: third, five: fifth, eight: eighth, nine: ninth, twelve: twelfth
""")


def _digits(text: str) -> str:
    return " ".join(_ONES[int(digit)] for digit in text)


def _small(n: int) -> str:
    """0 to 999."""
    if n >= 100:
        return f"{_ONES[n // 100]} hundred" + (f" {_small(n % 100)}" if n % 100 else "")
    if n < 20:
        return _ONES[n]
    return _TENS[n // 10] + (f" {_ONES[n % 10]}" if n % 10 else "")


def _cardinal(digits: str) -> str:
    """Numbers such as 007 and numbers beyond the trillions are read digit by digit."""
    if len(digits) > 15 or (len(digits) > 1 and digits[0] == "0"):
        return _digits(digits)
    groups, n = [], int(digits)
    for scale in _SCALES:
        n, group = divmod(n, 1000)
        if group:
            groups.append(_small(group) + scale)
    return " ".join(reversed(groups)) or "zero"


def _number(text: str) -> str:
    """`1,234.5` or `.5`"""
    whole, point, part = text.replace(",", "").partition(".")
    words = _cardinal(whole) if whole else ""
    return f"{words} point {_digits(part)}".lstrip() if point else words


def _year(digits: str) -> str:
    century, rest = divmod(int(digits), 100)
    if not 10 < century < 100 or (century % 10 == 0 and rest < 10):
        return _cardinal(digits)
    return f"{_small(century)} " + (_small(rest) if rest > 9 else f"oh {_small(rest)}" if rest else "hundred")


def _ordinal(words: str) -> str:
    start, space, last = words.rpartition(" ")
    regular = last[:-1] + "ieth" if last.endswith("y") else last.removesuffix("t") + "th"
    return start + space + _ORDINALS.get(last, regular)


def _plural(words: str) -> str:
    if words.endswith(("y", "f")):
        return words[:-1] + ("ies" if words.endswith("y") else "ves")
    return words + ("es" if words.endswith("x") else "s")


# --- dates, money, times, units -----------------------------------------------------------------------------

_MONTHS = _words("January February March April May June July August September October November December")
_MONTH_NUMBERS = {name[:size]: i for i, name in enumerate(_MONTHS) for size in (3, 4, 9)}
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)}|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
_DAY = r"(?P<day>[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?"
_IN_YEAR = r"(?:,? (?P<year>[12]\d{3}\b))?"
_CURRENCIES = _table("$: dollar cent, €: euro cent, £: pound penny, ¥: yen sen")
_PLURALS = _table("penny: pence, yen: yen, sen: sen, foot: feet, percent: percent, hertz: hertz")
_PLURALS |= {f"{size}hertz": f"{size}hertz" for size in ("kilo", "mega", "giga")}
_MAGNITUDES = _table("k: thousand, m: million, b: billion, bn: billion, t: trillion")
_UNITS = _table("""
    %: percent, °C: degree celsius, °F: degree fahrenheit, °: degree, ¢: cent, km/h: kilometer per hour,
    kmh: kilometer per hour, kph: kilometer per hour, mph: mile per hour, m/s: meter per second,
    km/s: kilometer per second, km: kilometer, m: meter, cm: centimeter, mm: millimeter, ft: foot, mi: mile,
    kg: kilogram, g: gram, mg: milligram, lb: pound, lbs: pound, oz: ounce, ml: milliliter, mL: milliliter,
    L: liter, kW: kilowatt, kWh: kilowatt-hour, TB: terabyte, GB: gigabyte, MB: megabyte, KB: kilobyte,
    kB: kilobyte, Hz: hertz, kHz: kilohertz, MHz: megahertz, GHz: gigahertz, ms: millisecond, h: hour,
    hr: hour, hrs: hour, min: minute, mins: minute, sec: second, tsp: teaspoon, tbsp: tablespoon
""")
_SPECIAL = _table("""
    24/7: twenty four seven, 9/11: nine eleven, 50/50: fifty fifty, 911: nine one one, w/o: without, w/: with,
    'n': and, C#: c sharp, c#: c sharp, Ph.D: p h d, Ph.D.: p h d
""")
_CITED = _table("no: number, nos: numbers, p: page, pp: pages, vol: volume, ch: chapter, fig: figure")
_RULERS = "|".join(_words("""
    Alexander Catherine Charles Edward Elizabeth Francis Frederick George Henry James John Louis Mary Napoleon
    Nicholas Paul Peter Philip Pius Richard Wilhelm William
"""))
_NUMERALS = _words("_ I II III IV V VI VII VIII IX X XI XII XIII XIV XV XVI XVII XVIII XIX XX")
_SIGNS = _table("&: and, +: plus, =: equals, @: at, %: percent, °: degrees, ¢: cents")
_N = r"(?:\d{1,3}(?:,\d{3}){1,9}(?!\d)|\d+)(?:\.\d+)?"
_SIGN = r"[$£€¥]"
_ENDINGS = "com|org|net|edu|gov|io|ai|co|uk|txt|pdf|html"  # of site and file names


def _many(name: str, n: str) -> str:
    """Return a unit's name as it is said after the number `n`; the first word takes the plural."""
    if n == "1" or n.startswith("1/"):
        return name
    first, space, rest = name.partition(" ")
    return _PLURALS.get(first, _plural(first)) + space + rest


def _date(year: str, month: str, day: str) -> str | None:
    if 1 <= int(month) <= 12 and 1 <= int(day) <= 31:
        return f"{_MONTHS[int(month) - 1]} {_ordinal(_small(int(day)))}, {_year(year)}"
    return None


def _slashed_date(match: re.Match) -> str:
    """Month first, as in America, unless it is above 12."""
    first, second, year = match.groups()
    return _date(year, first, second) or _date(year, second, first) or match[0]


def _named_date(match: re.Match) -> str:
    month, year = _MONTHS[_MONTH_NUMBERS[match["month"].rstrip(".")]], match["year"]
    day = _ordinal(_small(int(match["day"])))
    date = f"{month} {day}" if match.start("month") < match.start("day") else f"the {day} of {month}"
    return f"{date}, {_year(year)}" if year else date


def _mail(match: re.Match) -> str:
    """`first.last@example.com`"""
    name, place = (part.replace(".", " dot ") for part in match.groups())
    name = name.replace("_", " underscore ").replace("-", " dash ").replace("+", " plus ")
    return f"{name} at {place}"


def _groups(match: re.Match) -> str:
    return ("plus " if match[0][0] == "+" else "") + ", ".join(map(_digits, re.findall(r"\d+", match[0])))


def _money(match: re.Match) -> str:
    sign, n, to = match["sign"] or match["after"], match["n"] or match["m"], match["to"]
    unit, part = _CURRENCIES[sign].split()
    if magnitude := match["magnitude"]:
        magnitude = magnitude.strip(" ").lower()
        unit = f"{_MAGNITUDES.get(magnitude, magnitude)} {_PLURALS.get(unit, unit + 's')}"
    elif not to and (cents := re.fullmatch(r"(.*)\.(\d\d)", n)):
        whole, cents = cents.groups()
        amounts = [(whole.lstrip("0"), unit), (cents.lstrip("0"), part)]
        spoken = [f"{_number(amount)} {_many(name, amount)}" for amount, name in amounts if amount]
        return " and ".join(spoken) or f"zero {_many(unit, '0')}"
    else:
        unit = _many(unit, to or n)
    return _number(n) + (f" to {_number(to)} " if to else " ") + unit


def _time(match: re.Match) -> str:
    hour, minute, second, half = match["hour"], match["minute"], match["second"], match["half"]
    words = [_small(int(hour))]
    fine = [part for part in (minute, second) if part]
    if minute and (minute != "00" or second):
        words += [f"oh {_small(int(part))}" if part[0] == "0" else _small(int(part)) for part in fine]
    elif minute and not half:
        words.append("o'clock" if 0 < int(hour) < 13 else "hundred")
    if half:
        words += [half.lower(), "m." if match["stop"] and _ends(match) else "m"]
    return " ".join(words)


def _decade(match: re.Match) -> str:
    n = match[1]
    return _plural(_year(n) if len(n) == 4 else _cardinal(n))


def _unit(match: re.Match) -> str:
    n, joint, unit = match.groups()
    name = _UNITS[unit] if "-" in joint else _many(_UNITS[unit], n)
    if re.fullmatch(r"\d+/\d+", n) and n[:2] != "1/" and "-" not in joint:  # 3/4 h
        name = f"of {'an' if name[0] == 'o' or unit[0] == 'h' else 'a'} {_UNITS[unit]}"
    return f"{_number(n) if re.fullmatch(_N, n) else n} {name}"


def _fraction(match: re.Match) -> str:
    whole, top, bottom = match.groups()
    n, d = int(top), int(bottom)
    if d in (10, 100) and n > 1 and not whole:
        return f"{_cardinal(top)} out of {_cardinal(bottom)}"
    if not n or d not in (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 32, 64, 100):
        return (f"{whole} " if whole else "") + f"{_cardinal(top)} over {_cardinal(bottom)}"
    name = {2: "half", 4: "quarter"}.get(d) or _ordinal(_small(d))
    words = f"{_cardinal(top)} {name if n == 1 else _plural(name)}"
    return f"{_number(whole)} and {words}" if whole else words


def _ruler(match: re.Match) -> str:
    """`Louis XIV`; not `Elizabeth I`, because it may be `I`."""
    name, numeral = match.groups()
    if numeral not in _NUMERALS:
        return match[0]
    return f"{name} the {_ordinal(_small(_NUMERALS.index(numeral)))}"


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
    _rule(r"(?<![\w-])([12]\d{3})-(\d\d)-(\d\d)(?![\d-])", lambda match: _date(*match.groups()) or match[0]),
    _rule(r"(?<![\d/])(\d{1,2})/(\d{1,2})/(\d{4}|\d\d)(?![\d/])", _slashed_date),
    _rule(r"(?<![\w-])(?:(?:\+?1[-. ])?(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]|\d{3}-)\d{4}(?![\w-])", _groups),
    _rule(r"\+\d{1,3}(?:[- ]\d{2,4}){2,4}(?![\w-])|(?<![\w-])\d+(?:-\d+){2,}(?![\w-])", _groups),
    _rule(r"(?<![\d.])\d+(?:\.\d+){2,}", lambda match: " point ".join(map(_number, match[0].split(".")))),
    # signs between numbers
    _rule(rf"(?<![\w.)%°])-(?={_SIGN}?\.?\d)", "minus"),
    _rule(
        rf"(?:(?P<sign>{_SIGN}) ?(?P<n>{_N})(?:[-–]{_SIGN}?(?P<to>{_N}))?"
        rf"|(?<![\d.,])(?P<m>{_N}) ?(?P<after>[£€¥]))"
        r"(?P<magnitude> ?(?:hundred|thousand|million|billion|trillion)\b|(?:[kKmMbBT]|bn)\b)?",
        _money,
    ),
    _rule(rf"(?<=\d)( ?[AaPp]\.?[Mm]\.?)? ?– ?(?={_SIGN}?\d)", r"\1 to"),
    _rule(rf"(?<=\d)( ?[AaPp]\.?[Mm]\.? ?(?=-))?- ?(?={_SIGN}?\d)", r"\1 to"),
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
    _rule(rf"\b{_MONTH} {_DAY}{_IN_YEAR}(?![\w:]|[.,]\d)", _named_date),
    _rule(rf"\b(?:the )?{_DAY} (?:of )?{_MONTH}{_IN_YEAR}(?!\w)", _named_date),
    _rule(_CLOCK + r"(?::(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?)?" + _HALF, _time),
    _rule(_CLOCK + r":(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?(?![\d:])(?P<half>)(?P<stop>)", _time),
    _rule(r"(?<=\d):(?=\d)", "to"),
    _rule(r"(?<![\w.,])(\d{1,3}(?:,\d{3}){1,9}|\d+)(?i:st|nd|rd|th)\b", lambda m: _ordinal(_number(m[1]))),
    _rule(r"(?<![\d.,])(\d{3}0|\d0)'?s\b", _decade),
    _rule(r"(?<![\w.])(\d{1,2})'(\d{1,2})(?:\"|(?!\w))", lambda m: f"{_number(m[1])} foot {_number(m[2])}"),
    _rule(rf"(?<![\d.,/])((?:\d{{1,4}} (?=\d{{1,3}}/))?[\d.,/]*\d)( ?-?)({_each(_UNITS)})(?![A-Za-z\d])(?:\.(?= [a-z]))?", _unit),
    _rule(r"(?<![\d/.])(?:(\d{1,4}) )?(\d{1,3})/(\d{1,4})(?![\d/]|\.\d)", _fraction),
    _rule(r"(?<![\w.,])(1[1-9]\d\d|20\d\d)(?!\d|[.,]\d)", lambda match: _year(match[1])),
    _rule(rf"{_N}|(?<!\w)\.\d+", lambda match: _number(match[0])),
    (re.compile(r"\bAT&T\b"), lambda match: "A T and T"),
    (re.compile(rf"\b({_RULERS}) ([IVX]{{2,5}}|[VX](?!\.))(?!\w)"), _ruler),
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

_TITLES = _table("mr: mister, mrs: missus, ms: miz, dr: doctor, prof: professor")
_SHORT = _TITLES | _table("""
    jr: junior, sr: senior, vs: versus, etc: et cetera, approx: approximately, dept: department,
    govt: government, ok: okay
""")  # with or without a full stop
_STOPPED_ONLY = _table("""
    inc: incorporated, co: company, ltd: limited, corp: corporation, bros: brothers, gen: general,
    col: colonel, capt: captain, lt: lieutenant, sgt: sergeant, gov: governor, rev: reverend, sen: senator,
    rep: representative, ave: avenue, blvd: boulevard, rd: road, mt: mount, ft: fort, jan: january,
    feb: february, apr: april, aug: august, sept: september, oct: october, nov: november, dec: december
""")  # capitalised
_LATIN = _table("eg: for example, ie: that is")
_ROMAN = _table("""
    ii: two, iii: three, iv: four, vi: six, vii: seven, viii: eight, ix: nine, xi: eleven, xii: twelve
""")
# Spelled letter by letter, in upper or lower case.
_LETTERS = _set("""
    usa uk eu fbi cia bbc cnn nbc cbs nfl nba nhl mba phd ceo cfo cto dna rna atm diy faq gdp gpu cpu http
    https www html url usb pdf sms suv tv dvd cd pc mp vip ufo api sql aka asap ibm nyc irs hiv pm rsvp bbq dj
    gps
""")
# Acronyms pronounced as words.
_SAID = _set("""
    nasa nato aids opec fifa uefa ikea lego ram rom pin sim zip gif swat yolo visa sars mers
""")
# Ordinary words, not acronyms, when they are in capitals.
_COMMON = _set("""
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
_STARTERS = _set("""
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
