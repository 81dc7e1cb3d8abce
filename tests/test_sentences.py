"""Long texts in pieces: a table of sentences by language and phenomenon, then what holds for any text."""

import re
import time
import zlib
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from barklite.text.sentences import split


def anything(piece: str) -> bool:
    return True


def at_most(n: int):
    return lambda piece: len(piece) <= n


# One sentence an entry: together they are the text.
SENTENCES = {
    "marks": ["One.", "Two?", "Three!", "What?!", "Really!!!", "Yes.", "No.", "The end"],
    "quote goes on": ['"Really?" she asked.', '"Stop!" he said (twice!) and left.', '"No."', "Then he left."],
    "curly quotes": ["He said “Go.”", "Then ‘Stop!’", "“She said, ‘No!’ and left.”", "Done."],
    "brackets": ["(He left.)", "Then (at last!) she spoke.", "{So.}", "*Stop!*", "_Go._", "End."],
    "titles": ["Mr. Smith, Dr. No and Prof. X met Gen. Lee.", "St. Louis is far.", "MR. T. SPOKE.", "Fine."],
    "initials": ["J. R. R. Tolkien met J.R.R. Martin, Ursula K. Le Guin and J.-P. Sartre.", "They sang."],
    "dotted": [
        "The U.S. Army is in the U.S.",
        "He has a Ph.D. from the U.K. and knows it.",
        "So do I.",
        "We go.",
    ],
    "initials and words": [
        "By A. I. Smith and 'J. Smith' left in 1990 J. Smith's car.",
        '"Call me J."',
        "Tom left.",
    ],
    "a street": [
        "He lives on Main St.",
        "The house is red.",
        "Apple Inc. Chief Tim Cook left Apple Inc.",
        "He did.",
    ],
    "letters": ["It is plan B.", "Then came vitamin C.", "It helps."],
    "hours": ["It is 5 p.m.", "Everyone left at 6 a.m. or at 7 P.M.", "Good."],
    "go on": ["Cats, dogs, etc. are here, e.g. Tom, i.e. ours, approx. 10 vs. Jerry.", "Birds, etc.", "All."],
    "numbers": [
        "Pi is 3.14, or 3,141.59 or 1.000,50.",
        "It was 1984.",
        "He paid $3.",
        "5 others paid $4.50.",
    ],
    "numbered": [
        "No. 5 is in Vol. II, Fig. 3, p. 7 of Smith et al. (2020).",
        "No.",
        "I won't.",
        "It is on Jan. 5.",
    ],
    "names with dots": [
        "Go to www.example.org/a.b?c=d!e or a.b@c.de.",
        "Read file.txt, version 2.1.3.",
        "Yes.",
    ],
    "ellipses": [
        "Well... maybe.",
        "I think… no.",
        "I... I do.",
        "Wait . . . what?",
        "Yes. . . .",
        "No…",
        "He left.",
    ],
    "lower case names": ["I like it.", "iPhone sales rose.", "He did."],
    "cues": ["[laughs] Oh, well.", "[sighs] [coughs] So [clears throat. Twice.] and on.", "Bye! [laughs]"],
    "songs": [
        "She sang.",
        "♪ In the jungle. The mighty jungle ♪",
        "Then she left.",
        "And ♪ la. La ♪ he went.",
        "♪ no. No ♪.",
        "End.",
    ],
    "songs in a row": ["♪ One. Two ♪", "♪ Three. Four ♪", "♪♪ Five. Six ♪♪", "End."],
    "a note alone": ["One two.", "Three. ♪"],
    "speakers": ["MAN: Hello.", "WOMAN: How are you?", "MAN: Fine."],
    "marks alone": ["... Hello!", "Yes. !", "No. 😀 —"],
    "emoji": ["Great!", "😀 Next one."],
    "German quotes": ["„Gut.“", "Er ging.", "»Nein!« rief sie.", "»Doch.«", "Sie sagte: ‚Nie!‘", "Ende."],
    "German": ["Am 3. Oktober kam z. B. Herr Dr. Müller bzw. Frau Prof. Roth, d. h. beide.", "Sie blieben."],
    "German ordinals": [
        "Der 2. Weltkrieg, im 19. Jahrhundert, ab 5. Mai.",
        "Montag, 3. Mai.",
        "Er kam am 3.",
        "Sie war 19.",
        "Danach nicht.",
    ],
    "French": [
        "« Oui ! » dit-elle.",
        "Comment allez-vous ?",
        "M. Dupont et Mme. Curie.",
        "« Bien. »",
        "Ah !",
    ],
    "Spanish": [
        "¿Qué tal?",
        "¡Bien!",
        "El Sr. García vive en EE. UU.",
        "El resto, no.",
        "— Hola. —dijo Juan—.",
        "Y?",
    ],
    "Italian": ["Il Sig. Rossi e dell'Avv. Bianchi, p. 3.", "La Dott.ssa Verdi ecc.", "Poi via."],
    "Portuguese": ["O Sr. Silva e a Profa. Costa, p. ex. Ana, etc.", "Fim."],
    "Polish": [
        "Ks. Jan i prof. Nowak, np. Anna, tzn. Ania, z ul. Długiej.",
        "W 1990 r.",
        "Potem itd.",
        "Nic.",
    ],
    "Turkish": ["II. Mehmed geldi.", "Prof. Dr. Ayşe, Doç. Ali vb.", "Sonra gitti.", "İyi mi?"],
    "Russian": [
        "— Привет! — сказал он.",
        "— Как дела?",
        "В 2020 г.",
        "Он уехал в г. Москва и т.д.",
        "А. С. Пушкин.",
    ],
    "Korean": ["안녕하세요.", "네.", '"가자!"', "그가 말했다.", "정말?"],
    "Hindi with dots": ["डॉ. ए. पी. जे. अब्दुल कलाम आए।", "अच्छा है.", "हाँ॥", "ठीक?"],
    "Urdu": ["یہ کیا ہے؟", "میں ٹھیک ہوں۔", "شکریہ"],
    "lower case only": [
        "i went home.",
        "then i... slept!",
        '"really?" she asked.',
        "gen. lee (aged 5.) came.",
    ],
}
# The same without spaces between.
UNSPACED = {
    "Chinese": [
        "他说：“你好。”",
        "“好。”，他说。",
        "真的吗？！",
        "（是。）",
        "圆周率是3.14。",
        "《书。》",
        "好！",
    ],
    "Chinese with straight quotes": ['他说："你好。', '世界。"', "然后走了。", '"再见。"', "完"],
    "Japanese": [
        "「行こう。」と彼は言った。",
        "「はい。」",
        "本当！？",
        "３．１４だ．",
        "「え？」って。",
        "行った。",
        "とても寒い。",
        "うん｡",
        "『あ！』",
    ],
    "Hindi": ["नमस्ते।", "मैं ठीक हूँ॥", "चलो।"],
}


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences(name):
    assert split(" ".join(SENTENCES[name]), anything) == SENTENCES[name]


@pytest.mark.parametrize("name", UNSPACED)
def test_sentences_without_spaces(name):
    assert split("".join(UNSPACED[name]), anything) == UNSPACED[name]


@pytest.mark.parametrize("text, pieces", [
    ("", []), (" \n\t\n ", []), ("...", ["..."]), ("a\n \n\r\n  b", ["a", "b"]),
    ("a\u2028\u2029b\r\n\r\nc", ["a", "b", "c"]),
    ("CHAPTER I\n\nIt was\nnight.  Then\n\nThe end", ["CHAPTER I", "It was\nnight.", "Then", "The end"]),
    ("Then.\n\n* * *\n\nNow.\n\n---", ["Then.\n* * *", "Now.\n---"]),
    ("a\n\n***\nb", ["a\n***", "b"]),
    ("0。♪_", ["0。♪_"]), ("Go. ♪ __ ♪", ["Go. ♪ __ ♪"]), ("Go. ♪ _la_ ♪", ["Go.", "♪ _la_ ♪"]),
    ("* * *\n\nNow.", ["* * *\nNow."]),
    ("Buy:\n- milk\n- eggs\n• nuts", ["Buy:", "- milk", "- eggs", "• nuts"]),
    ("1.2. One. Two.\n2) Three", ["1.2. One.", "Two.", "2) Three"]),
    ("MAN: hi\nthere\nOLD MAN: ho\nnote: so", ["MAN: hi\nthere", "OLD MAN: ho\nnote: so"]),
    ("♪ a\n♪ b\n♪ c", ["♪ a", "♪ b", "♪ c"]),
    ("♪ a\nb\n♪\n♪ c", ["♪ a\nb\n♪", "♪ c"]),
    ("♪ La.\n\nHe spoke. She sang.\n\nLa. ♪", ["♪ La.", "He spoke.", "She sang.", "La. ♪"]),
    ("Ha.[laughs] So. [laughs]\n\n[sighs]\n\nOh.", ["Ha.[laughs] So. [laughs]", "[sighs]", "Oh."]),
])  # fmt: skip
def test_paragraphs(text, pieces):
    assert split(text, anything) == pieces


@pytest.mark.parametrize("n, text, pieces", [
    (5, "a b c d e f g", ["a b c", "d e f", "g"]),
    (12, "one two, three four five, six", ["one two,", "three four", "five, six"]),
    (15, "I met Dr. No. and then, he left", ["I met Dr. No.", "and then,", "he left"]),
    (14, "你好，世界，再见，朋友们，我走了", ["你好，世界，再见，朋友们，", "我走了"]),
    (4, "你好，世界再见，朋友们。", ["你好，", "世界再", "见，", "朋友们。"]),
    (8, "aaaaaaa, bbbb — cc", ["aaaaaaa,", "bbbb", "— cc"]),
    (20, "go home now. then i sleep, well. (Yes)", ["go home now.", "then i sleep, well.", "(Yes)"]),
    (14, "Hi! you all went, home", ["Hi!", "you all went,", "home"]),
    (9, "Say [clears throat] so, you", ["Say", "[clears", "throat]", "so, you"]),
    (16, "Say, and [clears throat] so", ["Say,", "and", "[clears throat]", "so"]),
    (12, "MAN: oh well, so it goes", ["MAN: oh", "well,", "so it goes"]),
    (12, "go there now !!", ["go there", "now !!"]),
    (5, "ab [ c ]", ["ab", "[ c ]"]),
    (6, "how—are—you", ["how—", "are—", "you"]),
    (6, "♪ a b ♪.", ["♪ a b", "♪."]),
    (7, "abcdef !!!", ["abcdef", "!!!"]),
    (4, "abcdefghij", ["abcd", "efgh", "ij"]),
])  # fmt: skip
def test_too_long(n, text, pieces):
    assert split(text, at_most(n)) == pieces


SONG = "♪ In the jungle, the mighty jungle\nThe lion sleeps tonight. In the jungle ♪"


@pytest.mark.parametrize("n, pieces", [
    (len(SONG), [SONG]),
    (50, ["♪ In the jungle, the mighty jungle ♪", "♪ The lion sleeps tonight. In the jungle ♪"]),
    (30, ["♪ In the jungle, ♪", "♪ the mighty jungle ♪",
          "♪ The lion sleeps tonight. ♪", "♪ In the jungle ♪"]),
])  # fmt: skip
def test_a_song_is_cut_softly_and_sung_on(n, pieces):
    assert split(SONG, at_most(n)) == pieces
    assert split(f"He sang: {SONG} Then", at_most(n)) == ["He sang:", *pieces, "Then"]


def test_songs_that_cannot_be_sung_are_cut_like_text():
    assert split("♪ ab cd ♪", at_most(4)) == ["♪ ab", "cd ♪"]
    assert split("♪ ♪ ♪", at_most(1)) == ["♪", "♪", "♪"]
    assert split("♪♪ a b ♪♪♪", at_most(9)) == ["♪♪ a ♪♪♪", "♪♪ b ♪♪♪"]


@pytest.mark.parametrize(
    "cluster", ["e\u0301\u0302", "👩‍🚀", "👍🏽", "🇩🇪", "❤\ufe0f", "क्ष", "नी", "\u1100\u1161\u11a8", "a»"]
)
def test_what_reads_as_one_character_stays_whole(cluster):
    for n in range(len(cluster), 3 * len(cluster)):
        assert all(len(piece) % len(cluster) == 0 for piece in split(20 * cluster, at_most(n)))


# --- any text -----------------------------------------------------------------------------------------------

SCRAPS = [
    *"aB1.!?…。！।,;:—-'\"“”«»「」()[]♪_*🇩👩é你क", "\u0301", "\u200d", "\u094d", " ", " ", " ",
    "\n", "\n\n", "\r\n", "\u2029", "...", "? ", ". ", "。」",
    "Mr. ", "e.g. ", "U.S. ", "3. ", "[laughs]", "[", "]", "♪ ", "MAN: ", "word ", "Word ",
    "http://a.b ", "» ", "– ", '"',
]  # fmt: skip
texts = st.text(max_size=60) | st.lists(st.sampled_from(SCRAPS), max_size=60).map("".join)


def letters(text: str) -> str:
    """All that may not be lost."""
    return "".join(text.replace("♪", "").split())


@settings(max_examples=500, deadline=None)
@given(text=texts, n=st.integers(0, 40))
@example(text="♪ ♪", n=2)
def test_nothing_is_lost_and_every_piece_fits(text, n):
    pieces = split(text, at_most(n))
    assert letters("".join(pieces)) == letters(text)
    assert "".join(pieces).count("♪") >= text.count("♪")
    for piece in pieces:
        assert piece == piece.strip() != ""
        assert len(piece) <= max(n, 1)


@settings(max_examples=300, deadline=None)
@given(text=texts)
@example(text="0。♪_")
def test_short_texts_are_only_split_at_sentences(text):
    pieces = split(text, anything)
    assert "".join("".join(pieces).split()) == "".join(text.split())  # not even a ♪ is added
    if any(map(str.isalnum, text)):
        assert all(any(map(str.isalnum, piece)) for piece in pieces), "marks alone"
    for cue in re.findall(r"\[laughs\]", text):
        assert any(cue in piece for piece in pieces)


@settings(max_examples=300, deadline=None)
@given(text=texts, salt=st.integers(0, 9))
def test_every_piece_fits_whatever_fits(text, salt):
    def fits(piece):  # not even shorter ones, as in vocabularies where a long word is one token
        return (zlib.crc32(piece.encode("utf-8", "surrogatepass")) + salt) % 3 == 0

    pieces = split(text, fits)
    assert letters("".join(pieces)) == letters(text)
    assert all(fits(piece) or len(piece) == 1 for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_it_ends_when_nothing_fits(text):
    assert all(len(piece) == 1 for piece in split(text, lambda piece: False))


@settings(max_examples=200, deadline=None)
@given(
    words=st.lists(st.sampled_from(["a", "bb", "ccc", "dddddd"]), min_size=1, max_size=40),
    n=st.integers(6, 30),
)
def test_words_are_packed_as_tightly_as_fits(words, n):
    pieces = split(" ".join(words), at_most(n))
    assert " ".join(pieces) == " ".join(words)
    for piece, following in pairwise(pieces):
        assert len(f"{piece} {following.split()[0]}") > n


def test_each_sentence_is_counted_once_and_a_long_one_seldom():
    calls = []

    def fits(piece):
        calls.append(len(piece))
        return len(piece) <= 1000

    assert len(split("It is so. " * 500, fits)) == len(calls) == 500
    calls.clear()
    text = "word " * 20_000
    pieces = split(text, fits)
    assert " ".join(pieces) == text.strip()
    assert len(calls) < 25 * len(pieces)
    assert sum(calls) < 25 * len(text)


MEGABYTE = 1_000_000
HARD = [
    'He met Mr. Smith. "Really?" she asked. It cost $3.50, e.g. in the U.S. Then [laughs] he left... So.\n',
    "word ", "a", "!", "! ", "!! ", "♪", "♪ a ", "[", "![ a ", "! [a] ", "*\n\n", "你好，", '。"、',
    "e\u0301", "A. ", '."', "! » ", "MAN:\n", "1.",
]  # fmt: skip


@pytest.mark.parametrize("unit", HARD)
def test_time_grows_with_the_length_only(unit):
    text = unit * (MEGABYTE // len(unit) // 4)
    start = time.process_time()
    pieces = split(text, at_most(500))
    assert time.process_time() - start < 10  # 0.1 to 1.5 as a rule; minutes if it were quadratic
    assert letters("".join(pieces)) == letters(text)
