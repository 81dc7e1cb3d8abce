"""The texts that the built-in voice is trained on."""

import re
from pathlib import Path

import pytest

from barklite.training.texts import (
    _ordinal,
    _words,
    everyday,
    held_out,
    rare,
    training_texts,
    wordnet_names,
    wordnet_sentences,
)

WORDNET = Path("/usr/share/wordnet")  # where Debian's wordnet-base puts it
ALPHABET = re.compile(r"[a-z' ,.?!]+")

# What data files look like: a licence, then a line a meaning. Examples to keep, then examples to drop.
LICENCE = '  1 This software and database is "as is" | licensed "by us" to anyone  \n'
KEPT = {
    "I can breathe better when the air is clean": "i can breathe better when the air is clean",
    "a well-known man; he came early": "a well known man, he came early",
    "one thing: go home -- now": "one thing, go home, now",
    "can`t you try my pie?": "can't you try my pie?",
    "Stop that!": "stop that!",
    "hmm why cry": "hmm why cry",
    "twenty " * 19 + "men": None,  # 136 characters: too long
    "go on " * 10: ("go on " * 10).strip(),  # 20 words
}
DROPPED = [
    "alone",
    "go " * 21,
    "it cost 5 dollars",
    "the NATO forces",
    "World War II ended",
    "the letter b here",
    "at three p.m. he left",
    "Mr. Smith came",
    "he sells pots etc. here",
    "he said 'no' to me",
    "wait ... for me",
    "a café in town",
    "what (if any) good",
]


MEANING = "a plant (or animal) that is small; 3 of them; one of any kind"  # as is each example's definition
DEFINITIONS = ["a plant that is small", "one of any kind"]
NAMES = [  # lexicographer file, lemmas
    ("18", "Armstrong", "Neil_Armstrong"),
    ("18", "JFK", "St._Francis", "teacher", "O'Neill", "B"),
    ("15", "New_York", "Lyon", "delta"),
    ("06", "Big_Ben"),
]
WORDS = ["atom", "atom", "new_york", "xy", "a.m.", "brightly", "psst", "nth"]


def words(text: str) -> str:
    return " ".join(re.findall("[a-z']+", text.lower()))


@pytest.fixture
def wordnet(tmp_path):
    """A small WordNet directory with the examples above, spread over the four files."""
    examples = [*KEPT, *DROPPED]
    for i, part in enumerate(("noun", "verb", "adj", "adv")):
        rows = [
            f'0000{n:04} 29 v 01 word 0 000 | {MEANING}; "{example}"; "{example}"  \n'
            for n, example in enumerate(examples[i::4])
        ]
        odd = '00009999 29 v 01 word 0 000 | say "hello to all; "this is outside" and so on  \n'
        (tmp_path / f"data.{part}").write_text(LICENCE + "".join(rows) + odd, encoding="latin-1")
    with (tmp_path / "data.noun").open("a", encoding="latin-1") as file:
        for n, (kind, *lemmas) in enumerate(NAMES):
            both = " ".join(f"{lemma} 0" for lemma in lemmas)
            file.write(f"0001{n:04} {kind} n {len(lemmas):02x} {both} 000 | 1 name  \n")
    (tmp_path / "cntlist.rev").write_text("".join(f"{word}%1:04:00:: 1 3\n" for word in WORDS))
    return tmp_path


def test_wordnet_sentences_are_cleaned_sorted_and_unique(wordnet):
    assert wordnet_sentences(wordnet) == sorted([*filter(None, KEPT.values()), *DEFINITIONS])


@pytest.mark.parametrize("name", ["data.noun", "data.adv", "cntlist.rev"])
def test_an_incomplete_wordnet_directory_is_an_error_in_words(wordnet, name):
    (wordnet / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}.*wordnet-base"):
        wordnet_sentences(wordnet)
    with pytest.raises(FileNotFoundError, match="wordnet-base"):
        training_texts(wordnet, 3, 0, 0, ())


@pytest.fixture(scope="module")
def many():
    return everyday(30_000, seed=3)


def test_thirty_thousand_everyday_sentences_keep_the_limits(many):
    assert len(many) == 30_000
    for text in many:
        assert ALPHABET.fullmatch(text), text
        assert len(text) <= 120, text
        assert 1 <= len(words(text).split()) <= 14, text
        assert not re.search(r"[,.?!](?=[^ ])|  | [,.?!]|^ | $", text), text
        assert not re.search(r"\b(\w+) (and|or) \1\b", text), text  # "tea or tea?"


def test_no_two_everyday_sentences_have_the_same_words(many):
    assert len({words(text) for text in many}) == len(many)


def test_everyday_depends_on_the_seed_alone(many):
    assert everyday(200, seed=3) == many[:200]
    assert len(set(everyday(200, seed=4)) & set(many[:200])) < 20
    assert everyday(0, seed=1) == []
    with pytest.raises(ValueError, match="-1"):
        everyday(-1, seed=0)


def test_punctuation_is_there_to_be_learnt(many):
    asks = r"(why|where|how often|how can|did|does|do you|are you|have you ever|shall|may i|what's) .+"
    questions = [text for text in many if re.fullmatch(asks, text)]
    assert len(questions) > 2000
    assert [text for text in questions if not text.endswith("?")] == []
    statements = [text for text in many if not text.endswith("?")]
    assert 0.1 < 1 - len(statements) / len(many) < 0.4
    assert 0.45 < sum(text.endswith(".") for text in statements) / len(statements) < 0.55
    assert sum("," in text for text in many) / len(many) > 0.05


COMMON = """
i you he she it we they me him her us them my your his our their mine yours this that these those a an the
be am is are was were been being do does did doing done have has had will would can could should must might
may i'm you're he's she's it's we're they're i've you've we've they've i'll you'll he'll she'll we'll
they'll i'd don't doesn't didn't can't couldn't won't wouldn't shouldn't isn't aren't wasn't weren't haven't
hasn't hadn't that's there's what's where's who's let's here's and or but if because so when while until
although after before what who which whose where why how yes no not never always often sometimes please
thank thanks sorry hello goodbye in on at to from of for with without about under over between behind near
through across into out up down off one two three four five six seven eight nine ten eleven twelve thirteen
twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million first second third fifth
twelfth twentieth half quarter past o'clock monday tuesday wednesday thursday friday saturday sunday january
february march april may june july august september october november december spring summer autumn winter
today tomorrow yesterday tonight morning evening go come get make take see know think say tell give find put
keep leave bring buy eat drink read write hear listen look talk speak ask answer call meet wait work help
play learn teach live stay travel drive walk run sit sleep mother father sister brother friend child
children man men woman women people teacher doctor house home door window table chair kitchen bread cheese
water coffee tea milk car bus train plane school office money dollars red blue green yellow black white big
small good bad new old long short happy sad tired hungry cold hot rain head hand foot heart hurts weather
snow sun wind city country world street river tree name number letter question
"""


def test_the_common_words_of_speech_occur_again_and_again(many):
    count: dict[str, int] = {}
    for text in many:
        for word in words(text).split():
            count[word] = count.get(word, 0) + 1
    assert [word for word in COMMON.split() if count.get(word, 0) < 4] == []
    assert [letter for letter in "abcdefghijklmnopqrstuvwxyz" if count.get(letter, 0) < 10] == []
    assert len(count) > 2500


def test_articles_and_plurals_are_spelled_as_they_are_spoken(many):
    text = "\n".join(many)
    for wrong in (r"a (apple|orange|egg|old|uncle|interesting)", r"an (uniform|useful|new|university|big)"):
        assert not re.search(rf"\b{wrong}\b", text)
    assert not re.search(r"\b(mouses|boxs|knifes|secretarys|babys|wolfs|sheeps|watchs)\b|[{}~+]", text)


def test_numbers_in_words():
    assert [_words(n) for n in (0, 13, 40, 99)] == ["zero", "thirteen", "forty", "ninety nine"]
    assert _words(342) == "three hundred and forty two"
    assert _words(1007) == "one thousand and seven"
    assert _words(2_500_110) == "two million five hundred thousand one hundred and ten"
    ordinals = "first second third fourth fifth eighth ninth twelfth twentieth thirty first"
    assert " ".join(map(_ordinal, (1, 2, 3, 4, 5, 8, 9, 12, 20, 31))) == ordinals


def test_names_and_words_of_wordnet(wordnet):
    assert wordnet_names(wordnet) == {
        "who": ["armstrong", "neil armstrong"],
        "surname": ["armstrong"],
        "town": ["lyon", "new york"],
        "word": ["atom", "brightly", "nth", "psst"],
    }


def test_rare_words_and_numbers(wordnet):
    names = wordnet_names(wordnet)
    some = rare(3000, 1, names)
    assert some == rare(3000, 1, names) != rare(3000, 2, names)
    assert len({words(text) for text in some}) == len(some)
    assert all(ALPHABET.fullmatch(text) and len(text) <= 120 for text in some)
    assert max(len(words(text).split()) for text in some) > 14
    assert not [text for text in some if re.search(r"[,.?!] ?[,.?!]|[{}]", text)]
    together = " ".join(some)
    for part in (
        "neil armstrong",
        "new york",
        "brightly",
        " percent",
        " cents",
        " kilograms",
        " p m",
        "oh five",
    ):
        assert part in together
    texts = training_texts(wordnet, 20, 300, 1, [some[0]])
    of_rare = {text for text in texts if "armstrong" in text}
    assert len(of_rare) > 60
    assert some[0] not in training_texts(wordnet, 20, 3000, 1, [some[0]])


def test_training_texts_leave_out_the_test_sentences(wordnet):
    sentences = held_out()
    assert len(sentences) == len(set(map(words, sentences))) == 160
    assert not re.search(r"\d", " ".join(sentences))  # as the training texts say them
    some = everyday(400, seed=5)
    without = [
        *sentences,
        "I can breathe better, when the air is CLEAN!",
        *(text.upper() + "!!" for text in some[:50]),
    ]
    with (wordnet / "data.adv").open("a", encoding="latin-1") as file:
        file.writelines(f'00001111 02 r 01 word 0 000 | what; "{text}"\n' for text in sentences)
    texts = training_texts(wordnet, 400, 0, 5, without)
    left_out = {words(text) for text in without}
    assert not [text for text in texts if words(text) in left_out]
    assert not [text for text in texts if "breathe better" in text]
    kept = {words(text) for text in texts}
    assert {words(text) for text in some[50:]} <= kept
    assert "stop that" in kept
    assert len(training_texts(wordnet, 400, 0, 5, ())) > len(texts)


def test_training_texts_are_shuffled_by_the_seed_and_unique(wordnet):
    texts = training_texts(wordnet, 500, 0, 1, ())
    assert texts == training_texts(str(wordnet), 500, 0, 1, iter(()))
    assert texts != training_texts(wordnet, 500, 0, 2, ())
    assert len({words(text) for text in texts}) == len(texts)
    assert all(ALPHABET.fullmatch(text) and len(text) <= 125 for text in texts)
    plain = everyday(500, 1)
    assert [text for text in texts if text in plain] != plain
    assert {text in plain for text in texts[:50]} == {text in plain for text in texts[-50:]} == {True, False}


def test_one_training_text_in_twenty_joins_two_others(wordnet):
    texts = training_texts(wordnet, 2000, 0, 7, ())
    single = {words(text) for text in [*everyday(2000, 7), *wordnet_sentences(wordnet)]}
    joined = [text for text in texts if words(text) not in single]
    assert 0.04 < len(joined) / len(texts) < 0.06
    assert {", ", ". ", "? "} <= {mark for mark in (", ", ". ", "? ") for text in joined if mark in text}
    for text in joined:
        cuts = [m.end() for m in re.finditer(r"[,.?!] ", text)]
        assert any(words(text[:c]) in single and words(text[c:]) in single for c in cuts), text


@pytest.mark.skipif(not (WORDNET / "data.noun").exists(), reason="needs WordNet 3 (Debian's wordnet-base)")
def test_the_real_wordnet_gives_many_texts():
    examples = wordnet_sentences(WORDNET)
    assert len(examples) > 150_000
    assert all(ALPHABET.fullmatch(t) and len(t) <= 120 and 2 <= len(words(t).split()) <= 20 for t in examples)
    names = wordnet_names(WORDNET)
    assert all(len(found) > 2000 for found in names.values())
    texts = training_texts(WORDNET, 1000, 500, 0, held_out())
    assert len(texts) > len(examples) + 1500
    assert not {words(text) for text in texts} & {words(text) for text in held_out()}
    vowelless = {w for t in texts for w in words(t).split() if not re.search("[aeiouy]", w) and len(w) > 1}
    assert vowelless <= {"hm", "hmm", "mm", "shh", "psst", "pst", "nth", "tv"}
