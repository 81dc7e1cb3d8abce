"""English spelled out: cases, and what holds for every text."""

import json
import re
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barklite import Bark, BarkConfig
from barklite.storage.checkpoint import is_replaceable
from barklite.text.english import skipped, spell_out
from barklite.text.tokenizer import KINDS, English, SentencePiece
from barklite.training import prepare

CASES = r"""
# words and marks
Hello, World! -> hello, world!
I'm here; she's not: why? -> i'm here, she's not, why?
“Yes,” he said. -> yes, he said.
He said: "hi". -> he said, hi.
'Tis the dogs' bones -> tis the dogs bones
rock 'n' roll -> rock and roll
It’s five o’clock -> it's five o'clock
Hello (my friend), hi -> hello, my friend, hi
Hello (friend) -> hello, friend
Wait -- what -> wait, what
wait—what – now - then -> wait, what, now, then
well-known pre- and post-war -> well known pre and post war
Well... I think… so -> well, i think, so
What?! No!!! -> what? no!
Hm , yes . -> hm, yes.
One.Two -> one. two
... hello -> hello
[laughs] Hello [sighs] -> laughs hello sighs
♪ la la ♪ -> la la
Hi 😀 there :) ok -> hi there okay
*smiles* _now_ -> smiles now
item(s) -> items
café naïve Æsop straße Øre İstanbul -> cafe naive aesop strasse ore istanbul
ﬁne Ｈｉ 𝐛𝐨𝐥𝐝 -> fine hi bold
soft­hyphen​ joined -> softhyphen joined
你好 hello мир -> hello
# cardinals
0 1 10 13 21 99 -> zero one ten thirteen twenty one ninety nine
100 105 999 -> one hundred one hundred five nine hundred ninety nine
1,000 1000 -> one thousand one thousand
1,234,567 -> one million two hundred thirty four thousand five hundred sixty seven
1000000000 -> one billion
2,000,000,000,001 -> two trillion one
1234567890123456 -> one two three four five six seven eight nine zero one two three four five six
1,000,000,000,000,000 -> one zero zero zero zero zero zero zero zero zero zero zero zero zero zero zero
007 -> zero zero seven
I am 21. -> i am twenty one.
1, 2, 3 -> one, two, three
1,2345 -> one, two thousand three hundred forty five
3.5 -> three point five
3.14159 0.25 .5 -> three point one four one five nine zero point two five point five
1,000.5 -> one thousand point five
-5 -> minus five
It is -2.5 now -> it is minus two point five now
5 - 3 = 2 -> five minus three equals two
2+2=4 -> two plus two equals four
v2.0.1 -> v two point zero point one
# ordinals, decades, years
1st 2nd 3rd 4th 5th 8th 9th 12th -> first second third fourth fifth eighth ninth twelfth
20th 22nd 101st 1,000th -> twentieth twenty second one hundred first one thousandth
1990s '90s 80's 2000s -> nineteen nineties nineties eighties two thousands
2010s 1900s -> twenty tens nineteen hundreds
1984 1999 2026 2010 -> nineteen eighty four nineteen ninety nine twenty twenty six twenty ten
2005 2000 1905 1900 -> two thousand five two thousand nineteen oh five nineteen hundred
1066 1,984 2100 -> one thousand sixty six one thousand nine hundred eighty four two thousand one hundred
1914-1918 2010–2015 -> nineteen fourteen to nineteen eighteen twenty ten to twenty fifteen
# times and dates
7:30 7:05 07:30 -> seven thirty seven oh five seven thirty
10:00 17:00 10:00 am -> ten o'clock seventeen hundred ten a m
5pm 5 PM 5:30 p.m. sharp -> five p m five p m five thirty p m sharp
At 5 p.m. He left. -> at five p m. he left.
It is 5 a.m. -> it is five a m.
9am-5pm 9 am – 5 pm -> nine a m to five p m nine a m to five p m
16:9 -> sixteen to nine
May 5, 2024 -> may fifth, twenty twenty four
on Jan. 1st, 2001. -> on january first, two thousand one.
the 4th of July -> the fourth of july
5 May 2024 -> the fifth of may, twenty twenty four
May 5-7 -> may fifth to seven
In May 2024 -> in may twenty twenty four
2024-05-03 -> may third, twenty twenty four
12/25/1999 -> december twenty fifth, nineteen ninety nine
25/12/1999 -> december twenty fifth, nineteen ninety nine
99/99/99 -> ninety nine slash ninety nine slash ninety nine
2024-99-03 -> two zero two four, nine nine, zero three
# money
$5 $1 £1 €2 ¥100 -> five dollars one dollar one pound two euros one hundred yen
$3.50 $1.01 -> three dollars and fifty cents one dollar and one cent
$0.99 $5.00 $0.00 -> ninety nine cents five dollars zero dollars
£2.01 £2.50 -> two pounds and one penny two pounds and fifty pence
$2 million $1.5M -> two million dollars one point five million dollars
€3bn $10k -> three billion euros ten thousand dollars
$1,000 5€ -$5 50¢ -> one thousand dollars five euros minus five dollars fifty cents
$5-10 $5-$10 -> five to ten dollars five to ten dollars
$5/day -> five dollars per day
# units, fractions, ranges, phones
50% 1% 2.5% -> fifty percent one percent two point five percent
20°C -1°F 45° 1° -> twenty degrees celsius minus one degree fahrenheit forty five degrees one degree
5 km 1 km 5km -> five kilometers one kilometer five kilometers
a 10-km run -> a ten kilometer run
60 mph 100 km/h -> sixty miles per hour one hundred kilometers per hour
5'10" 6 ft. tall 1 ft -> five foot ten six feet tall one foot
5 GB 16GB 2.4 GHz 5G -> five gigabytes sixteen gigabytes two point four gigahertz five g
30 min 8 hrs 2 lbs -> thirty minutes eight hours two pounds
5 m² -> five meters squared
1/2 3/4 2/3 3/8 1/3 -> one half three quarters two thirds three eighths one third
5 1/2 5½ ¼ -> five and one half five and one half one quarter
2½ lbs. of 3/4 tsp -> two and one half pounds of three quarters of a teaspoon
2/3 oz, 3/4-kg -> two thirds of an ounce, three quarters kilogram
9/10 min 7/13 km 3/4 h -> nine out of ten minutes seven over thirteen kilometers three quarters of an hour
10%-20%, 5°–10° -> ten percent to twenty percent, five degrees to ten degrees
1/2 km 8/10 7/0 13/17 -> one half kilometer eight out of ten seven over zero thirteen over seventeen
24/7 9/11 50/50 -> twenty four seven nine eleven fifty fifty
5-10 people -> five to ten people
555-1234 -> five five five, one two three four
(555) 123-4567 -> five five five, one two three, four five six seven
+1 555-123-4567 -> plus one, five five five, one two three, four five six seven
+44 20 7946 0958 -> plus four four, two zero, seven nine four six, zero nine five eight
123-45-6789 -> one two three, four five, six seven eight nine
Call 911. -> call nine one one.
192.168.0.1 -> one hundred ninety two point one hundred sixty eight point zero point one
3 x 4 3×4 3*4 -> three by four three times four three times four
1<2 3 > 2 x^2 ~5 -> one is less than two three is greater than two x to the power of two about five
# symbols
R&B and/or C++ C# -> r and b and slash or c plus plus c sharp
#1 #tag # Title -> number one hashtag tag title
me@site.com -> me at site dot com
https://www.example.co.uk/page -> w w w dot example dot co dot u k slash page
w/ milk w/o sugar -> with milk without sugar
100 % sure -> one hundred percent sure
a ===== b -> a, b
# abbreviations
Mr. Smith, Mrs. Jones, Ms Li -> mister smith, missus jones, miz li
Dr. Who met Prof. X. -> doctor who met professor x.
St. James lives on Main St. in town -> saint james lives on main street in town
This vs. that, etc. -> this versus that, et cetera.
cats, dogs, etc., are -> cats, dogs, et cetera, are
cats etc. They ran -> cats et cetera. they ran
e.g. this, i.e. that -> for example this, that is that
No. 5 and p. 12 -> number five and page twelve
No. He said no. -> no. he said no.
Smith Jr., and Sr. -> smith junior, and senior.
approx. 5 dept. heads -> approximately five department heads
Acme Inc. and Gen. Lee, Sept. 5 -> acme incorporated and general lee, september fifth
(Mr). Smith -> mister smith
J. K. Rowling, John F. Kennedy -> j k rowling, john f kennedy
So did I. Then plan B. Then C. -> so did i. then plan b. then c.
Ph.D. and PhD -> p h d and p h d
# acronyms
The USA, the FBI and BBC -> the u s a, the f b i and b b c
the U.S. Army in the U.S. He left the U.S. -> the u s army in the u s. he left the u s.
HELLO there, NASA -> hello there, nasa
Please STOP. I LOVE THIS so much -> please stop. i love this so much
I LOVE THE FBI AND HTML -> i love the f b i and h t m l
GIVE US MORE -> give us more
the US and us -> the u s and us
a tv, a DVD and usb -> a t v, a d v d and u s b
TVs, CDs, the FBI's -> t v's, c d's, the f b i's
DON'T, IT'S me -> don't, it's me
SHH, HMM, BRRR he said -> shh, hmm, brrr he said
OK ok. -> okay okay.
MP3 H2O B2B PS5 4K -> m p three h two o b two b p s five four k
COVID-19 -> covid nineteen
World War II -> world war two
Louis XIV's, Henry V, Pius X. So -> louis the fourteenth's, henry the fifth, pius x. so
Elizabeth I was, Paul V. Smith, George IIII -> elizabeth i was, paul v smith, george i i i i
AT&T's R&D -> a t and t's r and d
"""


@pytest.mark.parametrize(
    "text, spoken", [line.split(" ->") for line in CASES.splitlines() if "->" in line], ids=repr
)
def test_cases(text, spoken):
    assert spell_out(text) == spoken.strip()
    assert spell_out(spoken.strip()) == spoken.strip()


def test_nothing_to_say():
    assert [spell_out(text) for text in ("", "♪", "你好。", "?!, .", "[...]", "=====", "'")] == [""] * 7


def test_lines_and_tabs_are_spaces():
    assert spell_out("one\ttwo\n\nthree\x00 \u2028four\n") == "one two three four"


def words(text):
    return text.split()


PARTS = [
    *words("Mr. mr st. St. etc. U.S. e.g. Jr A. I I. TV TVs FBI's NO Ph.D. 5 -3 1/2 2:30 p.m."),
    *words("am $ £4.50 k million May 5th 1990s ' '' . , ... .. ? ! ( ) - – — : [a]"),
    *words("www.x.com 24/7 w/ 007 3.5.1 555-1234 % km km/h # x II MD 'n' 'S 1, ,5 No. the The"),
]
TEXTS = st.one_of(
    st.text(st.characters(), max_size=40),  # surrogates too
    st.text(st.sampled_from("aAbT.U S,'?!-–—:;()0159/%$£°#&@½…\"’éø漢ms"), max_size=40),
    st.lists(
        st.sampled_from(PARTS),
        max_size=12,
    ).flatmap(lambda words: st.sampled_from([" ".join(words), "".join(words)])),
)


@settings(deadline=None, max_examples=1500)
@given(TEXTS)
def test_any_text(text):
    """It does not raise, keeps to its alphabet, and finds nothing to do in what it made."""
    spoken = spell_out(text)
    assert re.fullmatch(r"(?:[a-z]+(?:'[a-z]+)*(?:[,.?!]? (?=[a-z])|[,.?!]?\Z))*", spoken), (text, spoken)
    assert spell_out(spoken) == spoken


def test_every_character():
    for start in range(0, 0x110000, 4096):
        spoken = spell_out("".join(f"{chr(code)}a" for code in range(start, start + 4096)))
        assert set(spoken) <= set("abcdefghijklmnopqrstuvwxyz' ,.?!"), hex(start)


LONG = [
    *words("a A 1 . , ' - $ % ( é \u0301\u0323 a. A. 1. 1, 1- 1/ 1: -1 $1 ,111 1.1. a- a.a A' 1:00 1/2 555-"),
    *words("a_. .co a.com w/ = a!a :) [a] 2024-05- 5pm 1990s #1 … 1,1"),
    *(" ", "1 ", "A A ", "AA ", "U.S. ", "Mr. ", "etc. ", "St. ", "J. B", "5 km ", "1 1/2 ", "May 5 ", "+1 "),
    *("= ", "$1 million ", " -", "a ,"),
]


@pytest.mark.parametrize("unit", LONG, ids=repr)
def test_time_is_linear(unit):
    """20,000 characters, with an end that undoes matches: a quadratic pattern takes far longer."""
    start = time.process_time()
    for end in ("x", "#"):
        spell_out(unit * (20_000 // len(unit)) + end)
    assert time.process_time() - start < 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A SentencePiece model of characters, as the built-in voice has."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("english")
    corpus = folder / "corpus.txt"
    lines = ["the quick brown fox, jumps over the lazy dog.", "isn't it? yes! five to ten, twenty three"]
    corpus.write_text("\n".join(lines * 10), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "tokenizer"),
        model_type="char",
        vocab_size=35,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


def test_ids_are_of_what_is_spoken(model):
    english, plain = English.load(model), SentencePiece.load(model)
    assert isinstance(english, English)
    assert english.encode("The FBI: 23!") == plain.encode("the f b i, twenty three!")
    assert english.encode("The FBI: 23!") != plain.encode("The FBI: 23!")
    assert 0 not in english.encode("The 23 [foxes] of “Zoë” – $5 & more")  # nothing unknown
    assert english.encode("♪ 你好 \ud800") == []


@pytest.mark.parametrize("kind", ["english", "sentencepiece"])
def test_kinds_that_share_a_file(model, tmp_path, kind):
    """`config.json` tells them apart, whichever of them is saved."""
    tokenizer = KINDS[kind].load(model)
    Bark.from_config(BarkConfig.tiny(), tokenizer=tokenizer, device="cpu").save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["tokenizer"] == kind
    assert (tmp_path / "saved" / "tokenizer.model").read_bytes() == model.read_bytes()
    assert is_replaceable(tmp_path / "saved")

    again = Bark.from_pretrained(tmp_path / "saved", device="cpu")
    assert type(again.tokenizer) is KINDS[kind]
    assert again.config.tokenizer == kind
    assert again.tokenizer.encode("5 foxes") == tokenizer.encode("5 foxes")
    again.save_pretrained(tmp_path / "saved", force=True)
    assert type(Bark.from_pretrained(tmp_path / "saved", device="cpu").tokenizer) is KINDS[kind]


# --- what cannot be read ------------------------------------------------------------------------------------


def test_mail():
    assert spell_out("Write to john.doe_9@mail.example.com.") == (
        "write to john dot doe underscore nine at mail dot example dot com."
    )
    assert spell_out("a-b+c@x.org") == "a dash b plus c at x dot org"
    assert spell_out("me @ home") == "me at home"


def test_skipped_characters_are_named():
    assert skipped("I ❤️ you 😀👍🏽, 你好 and Привет!") == ["❤", "😀", "👍", *"你好Привет"]
    assert skipped("Café, naïve – ½ of 5 °C (“so”) … № 3 µm ™ x² 100 €") == []


def test_the_tokenizer_says_what_it_skips(tmp_path):
    prepare.train_tokenizer(tmp_path / "tokenizer.model", ["hello you"])
    tokenizer = English.load(tmp_path / "tokenizer.model")
    with pytest.warns(UserWarning, match="😀 你: skipped, not English letters"):
        ids = tokenizer.encode("hello 😀 你you")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokenizer.encode("hello you") == ids
