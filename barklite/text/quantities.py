"""Numbers, dates, money, units and rulers' numerals in words, for `english.spell_out`."""

import re


def _list(text: str) -> list[str]:
    return text.split()


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def table(text: str) -> dict[str, str]:
    """Parse `key: value, key: value`."""
    return dict(entry.split(": ") for entry in " ".join(text.split()).split(", "))


# --- numbers ------------------------------------------------------------------------------------------------

_ONES = _list("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
""")
_TENS = _list("_ _ twenty thirty forty fifty sixty seventy eighty ninety")
_SCALES = ("", " thousand", " million", " billion", " trillion")
_ORDINALS = table("""
    one: first, two: second, three: third, five: fifth, eight: eighth, nine: ninth, twelve: twelfth
""")


def say_digits(text: str) -> str:
    """`042`: zero four two."""
    return " ".join(_ONES[int(digit)] for digit in text)


def say_small(n: int) -> str:
    """A whole number below a thousand."""
    if n >= 100:
        return f"{_ONES[n // 100]} hundred" + (f" {say_small(n % 100)}" if n % 100 else "")
    if n < 20:
        return _ONES[n]
    return _TENS[n // 10] + (f" {_ONES[n % 10]}" if n % 10 else "")


def _cardinal(digits: str) -> str:
    """Numbers such as 007 and numbers beyond the trillions are read digit by digit."""
    if len(digits) > 15 or (len(digits) > 1 and digits[0] == "0"):
        return say_digits(digits)
    groups, n = [], int(digits)
    for scale in _SCALES:
        n, group = divmod(n, 1000)
        if group:
            groups.append(say_small(group) + scale)
    return " ".join(reversed(groups)) or "zero"


def say_number(text: str) -> str:
    """`1,234.5` or `.5`"""
    whole, point, part = text.replace(",", "").partition(".")
    words = _cardinal(whole) if whole else ""
    return f"{words} point {say_digits(part)}".lstrip() if point else words


def say_year(digits: str) -> str:
    """`1905`: nineteen oh five."""
    century, rest = divmod(int(digits), 100)
    if not 10 < century < 100 or (century % 10 == 0 and rest < 10):
        return _cardinal(digits)
    return f"{say_small(century)} " + (
        say_small(rest) if rest > 9 else f"oh {say_small(rest)}" if rest else "hundred"
    )


def say_ordinal(words: str) -> str:
    """twenty one: twenty first."""
    start, space, last = words.rpartition(" ")
    regular = last[:-1] + "ieth" if last.endswith("y") else last.removesuffix("t") + "th"
    return start + space + _ORDINALS.get(last, regular)


def _plural(words: str) -> str:
    if words.endswith(("y", "f")):
        return words[:-1] + ("ies" if words.endswith("y") else "ves")
    return words + ("es" if words.endswith("x") else "s")


# --- dates, money, units ------------------------------------------------------------------------------------

_MONTHS = _list("January February March April May June July August September October November December")
_MONTH_NUMBERS = {name[:size]: i for i, name in enumerate(_MONTHS) for size in (3, 4, 9)}
MONTH = rf"(?P<month>{'|'.join(_MONTHS)}|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
DAY = r"(?P<day>[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?"
IN_YEAR = r"(?:,? (?P<year>[12]\d{3}\b))?"
_CURRENCIES = table("$: dollar cent, €: euro cent, £: pound penny, ¥: yen sen")
_PLURALS = table("penny: pence, yen: yen, sen: sen, foot: feet, percent: percent, hertz: hertz")
_PLURALS |= {f"{size}hertz": f"{size}hertz" for size in ("kilo", "mega", "giga")}
_MAGNITUDES = table("k: thousand, m: million, b: billion, bn: billion, t: trillion")
UNITS = table("""
    %: percent, °C: degree celsius, °F: degree fahrenheit, °: degree, ¢: cent, km/h: kilometer per hour,
    kmh: kilometer per hour, kph: kilometer per hour, mph: mile per hour, m/s: meter per second,
    km/s: kilometer per second, km: kilometer, m: meter, cm: centimeter, mm: millimeter, ft: foot, mi: mile,
    kg: kilogram, g: gram, mg: milligram, lb: pound, lbs: pound, oz: ounce, ml: milliliter, mL: milliliter,
    L: liter, kW: kilowatt, kWh: kilowatt-hour, TB: terabyte, GB: gigabyte, MB: megabyte, KB: kilobyte,
    kB: kilobyte, Hz: hertz, kHz: kilohertz, MHz: megahertz, GHz: gigahertz, ms: millisecond, h: hour,
    hr: hour, hrs: hour, min: minute, mins: minute, sec: second, tsp: teaspoon, tbsp: tablespoon
""")
RULERS = _list("""
    Alexander Catherine Charles Edward Elizabeth Francis Frederick George Henry James John Louis Mary Napoleon
    Nicholas Paul Peter Philip Pius Richard Wilhelm William
""")
_NUMERALS = _list("_ I II III IV V VI VII VIII IX X XI XII XIII XIV XV XVI XVII XVIII XIX XX")
NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,9}(?!\d)|\d+)(?:\.\d+)?"
CURRENCY = r"[$£€¥]"


def _many(name: str, n: str) -> str:
    """Return a unit's name as it is said after the number `n`; the first word takes the plural."""
    if n == "1" or n.startswith("1/"):
        return name
    first, space, rest = name.partition(" ")
    return _PLURALS.get(first, _plural(first)) + space + rest


def say_date(year: str, month: str, day: str) -> str | None:
    """None if the numbers are no date."""
    if 1 <= int(month) <= 12 and 1 <= int(day) <= 31:
        return f"{_MONTHS[int(month) - 1]} {say_ordinal(say_small(int(day)))}, {say_year(year)}"
    return None


def say_slashed_date(match: re.Match) -> str:
    """Month first, as in America, unless it is above 12."""
    first, second, year = match.groups()
    return say_date(year, first, second) or say_date(year, second, first) or match[0]


def say_named_date(match: re.Match) -> str:
    """`May 3, 1999` or `3 May`"""
    month, year = _MONTHS[_MONTH_NUMBERS[match["month"].rstrip(".")]], match["year"]
    day = say_ordinal(say_small(int(match["day"])))
    date = f"{month} {day}" if match.start("month") < match.start("day") else f"the {day} of {month}"
    return f"{date}, {say_year(year)}" if year else date


def say_money(match: re.Match) -> str:
    """`$5.20`, `£3-4` or `€3bn`"""
    sign, n, to = match["sign"] or match["after"], match["n"] or match["m"], match["to"]
    unit, part = _CURRENCIES[sign].split()
    if magnitude := match["magnitude"]:
        magnitude = magnitude.strip(" ").lower()
        unit = f"{_MAGNITUDES.get(magnitude, magnitude)} {_PLURALS.get(unit, unit + 's')}"
    elif not to and (cents := re.fullmatch(r"(.*)\.(\d\d)", n)):
        whole, cents = cents.groups()
        amounts = [(whole.lstrip("0"), unit), (cents.lstrip("0"), part)]
        spoken = [f"{say_number(amount)} {_many(name, amount)}" for amount, name in amounts if amount]
        return " and ".join(spoken) or f"zero {_many(unit, '0')}"
    else:
        unit = _many(unit, to or n)
    return say_number(n) + (f" to {say_number(to)} " if to else " ") + unit


def say_decade(match: re.Match) -> str:
    """`1990s` or `80s`"""
    n = match[1]
    return _plural(say_year(n) if len(n) == 4 else _cardinal(n))


def say_unit(match: re.Match) -> str:
    """`5 km`, `10-km` or `3/4 h`; a fraction's own words come later."""
    n, joint, unit = match.groups()
    name = UNITS[unit] if "-" in joint else _many(UNITS[unit], n)
    if re.fullmatch(r"(?:[2-9]|1\d)/(?:[2-9]|1[26])", n) and "-" not in joint:
        name = f"of {'an' if name[0] == 'o' or unit[0] == 'h' else 'a'} {UNITS[unit]}"
    return f"{say_number(n) if re.fullmatch(NUMBER, n) else n} {name}"


def say_fraction(match: re.Match) -> str:
    """`5 1/2` or `3/4`"""
    whole, top, bottom = match.groups()
    n, d = int(top), int(bottom)
    if d in (10, 100) and n > 1 and not whole:
        return f"{_cardinal(top)} out of {_cardinal(bottom)}"
    if not n or d not in (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 32, 64, 100):
        return (f"{whole} " if whole else "") + f"{_cardinal(top)} over {_cardinal(bottom)}"
    name = {2: "half", 4: "quarter"}.get(d) or say_ordinal(say_small(d))
    words = f"{_cardinal(top)} {name if n == 1 else _plural(name)}"
    return f"{say_number(whole)} and {words}" if whole else words


def say_ruler(match: re.Match) -> str:
    """`Louis XIV`; not `Elizabeth I`, because it may be `I`."""
    name, numeral = match.groups()
    if numeral not in _NUMERALS:
        return match[0]
    return f"{name} the {say_ordinal(say_small(_NUMERALS.index(numeral)))}"
