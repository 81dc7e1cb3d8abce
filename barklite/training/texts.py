"""The texts of the built-in English voice: what the synthetic speaker reads aloud for training.

Two sources. WordNet's example sentences bring many words, each in few sentences; `everyday` brings the common
words of speech, the contractions, the numbers and the letters, in sentences that small grammars make.

A grammar is a table: a slot's name, then what may stand in it, parted by `|`; a `{slot}` is filled in turn.
The mark `a~` becomes "a" or "an", `{slot+}` is the plural. An indented line goes on with the row above.
Everything is lower case and uses only the letters, the apostrophe and `,.?!`.
"""

import random
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

MAX_CHARS = 120  # of one sentence
MAX_JOINED_CHARS = 125  # of two sentences joined into one text
MAX_WORDNET_WORDS = 20
MAX_EVERYDAY_WORDS = 14
JOINED_SHARE = 20  # one text in so many is two sentences joined
HELD_OUT = Path(__file__).with_name("held_out.txt")

WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
ALPHABET = re.compile(r"[a-z' ,.?!]+")
VOWELLESS = {"hm", "hmm", "mm", "shh", "psst", "pst", "nth"}  # words all the same
ABBREVIATIONS = {"etc", "prof", "gen", "sen", "gov", "rev", "capt", "ave", "inc"}
ABBREVIATIONS |= {"jan", "feb", "aug", "oct", "dec"}


# ---------------------------------------------------------------------------------------------- WordNet


def wordnet_examples(directory: str | Path) -> list[str]:
    """The quoted example sentences of a WordNet 3 `dict` directory, cleaned, sorted, each once.

    Kept are texts of 2 to 20 words and at most 120 characters that a speaker can read without guessing: no
    digits, initials, abbreviations or words in capitals. FileNotFoundError if a data file is not there.
    """
    directory = Path(directory)
    for name in WORDNET_FILES:
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory} has no {name}: give the directory of WordNet 3's data files "
                "(the Debian package wordnet-base puts it at /usr/share/wordnet)"
            )
    found = set()
    for name in WORDNET_FILES:
        for line in (directory / name).read_text(encoding="latin-1").splitlines():
            if line.startswith("  ") or " | " not in line:  # the licence, at the top of each file
                continue
            gloss = line.split(" | ", 1)[1]
            if gloss.count('"') % 2 == 0:  # else there is no telling the examples from the definition
                found.update(filter(None, map(_clean, re.findall(r'"([^"]+)"', gloss))))
    return sorted(found)


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

ONES = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen",
)
TENS = ["_", "_", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth"}
ORDINALS |= {"nine": "ninth", "twelve": "twelfth"}


def _words(n: int) -> str:
    """A whole number below a thousand million in words: 342 -> "three hundred and forty two"."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f" {ONES[n % 10]}" if n % 10 else "")
    for size, name in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if n >= size:
            rest = n % size
            link = " and " if size == 100 or rest < 100 else " "
            return f"{_words(n // size)} {name}" + (link + _words(rest) if rest else "")
    raise AssertionError(n)


def _ordinal(n: int) -> str:
    *front, last = _words(n).split()
    last = ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return " ".join([*front, last])


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
    hour = ONES[rng.randrange(1, 13)]
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
    "digits": lambda rng: " ".join(ONES[rng.randrange(10)] for _ in range(rng.randrange(3, 8))),
}

# ---------------------------------------------------------------------------------------------- grammar

# Verbs in five forms (do, does, did, doing, done), then what may follow. They fill the slots of those names.
VERBS = """
go goes went going gone: to {place} | home | to bed early | for a long walk | to {place} by {vehicle} |
    out with {person}
come comes came coming come: to the party | back home {late} | with {person} | to see {person} |
    from {place} by {vehicle}
get gets got getting gotten: up {late} | a letter from {person} | ready for {event} | a new {thing} |
    lost in the {city} | into trouble
make makes made making made: {meal} for {person} | a~ {adj} mistake | some {drink} | a list | a promise |
    a lot of noise | some money
take takes took taking taken: {vehicle_a} to {place} | a~ {adj} picture of {person} | a break |
    the wrong {thing} | care of {person} | a hot bath
see sees saw seeing seen: {person} at {place} | a~ {adj} {animal} | a good film |
    the {adj} {thing} in {place}
know knows knew knowing known: {person} very well | the answer | the truth | all the rules | how to {do}
think thinks thought thinking thought: about {person} | about the {problem} | about it all the time
say says said saying said: goodbye to {person} | a few words about {topic} | hello | the same thing again
tell tells told telling told: {person} about {topic} | {person} the truth | a~ {adj} story |
    me everything about {topic}
give gives gave giving given: {person} a~ {adj} {thing} | the {thing} to {person} | {person} some money |
    good advice | up too soon
find finds found finding found: a~ {adj} {thing} in the {room} | the {thing} under the {furniture} |
    a better job | a way out
put puts put putting put: the {thing} on the {furniture} | the {clothes} in the {room} | the children to bed |
    sugar in the {drink}
keep keeps kept keeping kept: the {thing} in the {room} | a secret | the window open |
    in touch with {person} | the house clean
leave leaves left leaving left: the {thing} at {place} | {place} at {clock} | the door open | early |
    {person} alone
bring brings brought bringing brought: {a_food} to {event} | the {thing} back | {person} some {drink} |
    the chairs inside
buy buys bought buying bought: a new {thing} | {a_food} at {place} | a~ {color} {clothes_one} | two tickets |
    a present for {person}
sell sells sold selling sold: the old {thing} | the house | {food} at the market | the {vehicle}
pay pays paid paying paid: for the {thing} | the bill | the rent | {number} dollars for it | in cash |
    attention
lose loses lost losing lost: the {thing} | a~ {color} {clothes_one} | the game | some weight | hope |
    {few} pounds
eat eats ate eating eaten: {a_food} for {meal} | too much {food} | out with {person} | {meal} with {person} |
    at {place}
drink drinks drank drinking drunk: a cup of {drink} | a glass of {drink} | too much {drink} |
    {drink} with {meal}
cook cooks cooked cooking cooked: {meal} for {person} | {a_food} | the {food} with onions and garlic
read reads read reading read: a~ {adj} book about {topic} | the newspaper | the letter from {person} |
    a chapter every night
write writes wrote writing written: a letter to {person} | a report about {topic} | the {nth} chapter |
    it down on paper
hear hears heard hearing heard: the news about {person} | a~ {adj} noise | music in the {room} |
    the {animal} outside
listen listens listened listening listened: to music | to the radio | to {person} | to the rain
watch watches watched watching watched: television | the game with {person} | the birds in the garden |
    a show about {topic}
look looks looked looking looked: for the {thing} | at the stars | after {person} | out of the window |
    at the map
talk talks talked talking talked: about {topic} | to {person} about {topic} | on the phone | too fast
speak speaks spoke speaking spoken: {language} | to {person} | {language} with {person} | in a low voice
ask asks asked asking asked: {person} for help | {person} about {topic} | a difficult question |
    for directions
answer answers answered answering answered: the phone | the question | the door | all {few} questions |
    the letter
call calls called calling called: {person} {back} | the police | a doctor | a taxi | {person} from {place}
meet meets met meeting met: {person} at {place} | some new people | {person} for {meal} | the new boss
wait waits waited waiting waited: for {person} | in line for {few} hours | at {place} |
    for the bus in the rain
work works worked working worked: at {place} | with {person} | on a new project | all night |
    {few} days a week | too hard
help helps helped helping helped: {person} with the {chore} | {person} move the {furniture} | people in need |
    in the kitchen
play plays played playing played: {sport} with {person} | the {instrument} | cards | a trick on {person} |
    outside
learn learns learned learning learned: {language} | to play the {instrument} | a new word | how to {do} |
    from mistakes
teach teaches taught teaching taught: {subject} | {person} how to {do} | young children |
    {person} {language}
study studies studied studying studied: {subject} | {language} at school | for the test |
    {subject} in college
live lives lived living lived: in a~ {adj} house | near {place} | with {person} | on the {nth} floor |
    in {country} | in the {city}
stay stays stayed staying stayed: at home | in bed | in a hotel | with {person} | up too late | calm |
    at {place}
move moves moved moving moved: to {country} | the {furniture} | to a bigger apartment | closer to {place}
travel travels traveled traveling traveled: to {country} | by {vehicle} | around the world | with {person} |
    through {country}
visit visits visited visiting visited: {person} in the hospital | {country} | {place} |
    {person} every {season}
drive drives drove driving driven: to {place} | a~ {color} {vehicle} | too fast | {person} to {place} |
    across the bridge
walk walks walked walking walked: to {place} | the dog | along the river | home with {person} | up the hill |
    past {place}
run runs ran running run: {few} miles | for the bus | out of {food} | away from the {animal} |
    a small business
fly flies flew flying flown: to {country} | over the mountains | a kite | back to {country}
ride rides rode riding ridden: a horse | a bicycle to {place} | the bus with {person}
sit sits sat sitting sat: next to {person} | on the {furniture} | by the fire | in the {room} | down
stand stands stood standing stood: in line | behind {person} | near the door | on one leg | up
sleep sleeps slept sleeping slept: on the {furniture} | for {few} hours | all day | well | in the {room}
wake wakes woke waking woken: up at {clock} | the baby | up {late} | {person} up
wear wears wore wearing worn: a~ {color} {clothes_one} | {color} {clothes} | a~ {adj} hat | glasses
wash washes washed washing washed: the dishes | the {vehicle} | the {clothes} | the {color} {clothes_one}
clean cleans cleaned cleaning cleaned: the {room} | the windows | the {furniture} | the house with {person}
fix fixes fixed fixing fixed: the {machine} | the {furniture} | the roof | the {problem}
break breaks broke breaking broken: a glass | the {machine} | a promise | the law | the {furniture}
open opens opened opening opened: the door | the window | the box | a shop | the letter from {person}
close closes closed closing closed: the door | the gate | the {thing} | the shop at {clock}
turn turns turned turning turned: on the light | off the {machine} | left at {place} | down the music |
    around
build builds built building built: a house | a bridge | a fire | a boat with {person} | a wall
grow grows grew growing grown: tomatoes | flowers in the garden | up in {country} | old
win wins won winning won: the game | a prize | the race | {number} dollars | the election
start starts started starting started: a new job | a family | the {machine} | to cry | over
stop stops stopped stopping stopped: at the red light | smoking | worrying about {topic} | the car
finish finishes finished finishing finished: the {chore} | {meal} | school | the work |
    the book about {topic}
need needs needed needing needed: a~ {adj} {thing} | some help | more time | {few} more chairs | a doctor |
    a reason
want wants wanted wanting wanted: a~ {color} {thing} | to {do} | {a_food} | to be a~ {job} | more {drink} |
    to know the truth
try tries tried trying tried: to {do} | the {food} | again | on the {color} {clothes_one} | everything
like likes liked liking liked: {food} | the {color} one | {person} very much | {sport} | {subject} |
    {language}
love loves loved loving loved: {person} | {a_food} | {season} in {country} | the sea | the smell of {drink}
hate hates hated hating hated: {food} | the noise | to {do} | loud music | the cold
remember remembers remembered remembering remembered: {person} | the {thing} | the good old days |
    every word | to {do}
forget forgets forgot forgetting forgotten: to {do} | the {thing} | about {event} | the password | my name
believe believes believed believing believed: the story | {person} | in ghosts | every word of it
hope hopes hoped hoping hoped: to {do} | for the best | to see {person} soon
decide decides decided deciding decided: to {do} | to sell the {thing} | against it
plan plans planned planning planned: to {do} | a trip to {country} | a surprise for {person} | {event}
enjoy enjoys enjoyed enjoying enjoyed: {event} | the view | the music | the {food} | the {season} weather
change changes changed changing changed: the subject | the {clothes} | the plan | trains at {place}
send sends sent sending sent: a message to {person} | {person} a card | the {thing} by mail | money home
show shows showed showing shown: {person} the {thing} | {person} around the {city} | the way to {place} |
    no fear
carry carries carried carrying carried: the {furniture} upstairs | a heavy {thing} |
    the {thing} to the {room}
hold holds held holding held: the baby | the {thing} | my hand | the door for {person}
cut cuts cut cutting cut: the {food} into small pieces | the grass | my finger | the cake in half
catch catches caught catching caught: a cold | the last {vehicle} | a fish | the ball
throw throws threw throwing thrown: the ball | away the {thing} | a party for {person} |
    a stone into the water
feel feels felt feeling felt: {feeling} | {feeling} about {topic} | much better | sick |
    at home in {country}
smile smiles smiled smiling smiled: at {person} | all day long
laugh laughs laughed laughing laughed: at the joke | about {topic} | out loud
cry cries cried crying cried: all night | for help | like a baby
sing sings sang singing sung: a~ {adj} song | in the shower | with {person} | very well
draw draws drew drawing drawn: a~ {adj} {animal} | a map | a circle | a straight line
spend spends spent spending spent: too much money | the night at {place} | {few} days in {country} |
    all day with {person}
share shares shared sharing shared: the {food} with {person} | a room with {person} | the same opinion
borrow borrows borrowed borrowing borrowed: the {thing} from {person} | some money from {person} |
    a~ {adj} {thing}
order orders ordered ordering ordered: {a_food} | a cup of {drink} | {a_food} and {drink} | a new {machine}
choose chooses chose choosing chosen: the {color} {clothes_one} | a different {thing} | {food} for {meal}
use uses used using used: the {machine} | too much salt | the back door | the {thing} every day
explain explains explained explaining explained: the {problem} to {person} | the rules | everything
understand understands understood understanding understood: the {problem} | {language} | {person} |
    every word
worry worries worried worrying worried: about {person} | about money | about {topic}
agree agrees agreed agreeing agreed: with {person} | to the plan | to {do}
become becomes became becoming become: a~ {job} | famous in {country} | a citizen |
    good friends with {person}
begin begins began beginning begun: to {do} | the lesson | again from the beginning
arrive arrives arrived arriving arrived: at {place} | {late} | in {country} by {vehicle} | home safely
continue continues continued continuing continued: to {do} | the journey | without {person}
allow allows allowed allowing allowed: {person} to {do} | nobody to enter
return returns returned returning returned: the {thing} to {person} | from {country} | to {place} alone
save saves saved saving saved: some money | a life | energy | the {adj} {animal}
kill kills killed killing killed: a snake | the {animal} | time
fight fights fought fighting fought: with {person} | for the land | against the enemy
fall falls fell falling fallen: off the {furniture} | in love with {person} | into a deep hole |
    down the stairs
kick kicks kicked kicking kicked: the ball | the door | {person} under the table
hit hits hit hitting hit: a tree | the wall with a hammer | {person} on the {body}
drop drops dropped dropping dropped: the {thing} | a heavy {thing} on the floor | out of college
touch touches touched touching touched: the {machine} | a snake | the hot stove
shake shakes shook shaking shaken: hands with {person} | the bottle | with fear
push pushes pushed pushing pushed: the button | {person} into the water | the {furniture} against the wall
pull pulls pulled pulling pulled: the rope | the {furniture} away | a tooth
raise raises raised raising raised: {few} children | the price | a question about {topic}
lift lifts lifted lifting lifted: the {furniture} | a heavy weight
hide hides hid hiding hidden: the {thing} from {person} | behind the {furniture} | the truth
steal steals stole stealing stolen: the {thing} | a~ {vehicle} from {person}
protect protects protected protecting protected: {person} from danger | the environment | the coast
prove proves proved proving proved: it to {person} | the point
imagine imagines imagined imagining imagined: the worst | a better world | life without {person}
suggest suggests suggested suggesting suggested: a different approach | a meeting at {clock} |
    another solution
accept accepts accepted accepting accepted: the offer | the invitation | the blame | a credit card
refuse refuses refused refusing refused: to {do} | the {food} | to admit it
avoid avoids avoided avoiding avoided: {person} | the traffic | trouble
miss misses missed missing missed: the {vehicle} | {person} very much | the chance | the point
invite invites invited inviting invited: {person} to {event} | {person} for {meal}
promise promises promised promising promised: to {do} | {person} a {thing}
join joins joined joining joined: the army | the team | {person} for {meal} | a band
follow follows followed following followed: {person} to {place} | the instructions | the path | the rules
pick picks picked picking picked: up the {thing} | {person} up at {clock} | some flowers | the wrong one
fill fills filled filling filled: the glass with {drink} | out the form | the tank with gas
hang hangs hung hanging hung: the picture on the wall | up the phone | the {clothes_one} behind the door
climb climbs climbed climbing climbed: a mountain | over the fence | the tower
lie lies lied lying lied: to {person} | about {topic}
marry marries married marrying married: {person_third} | a~ {job} | for money
prepare prepares prepared preparing prepared: {meal} for {person} | for {event} | a report
improve improves improved improving improved: the {machine} | the situation | the quality of life
replace replaces replaced replacing replaced: the {machine} | the old battery | a broken {thing}
discover discovers discovered discovering discovered: a new planet | the secret | an island
recognize recognizes recognized recognizing recognized: {person} | the voice | the handwriting
notice notices noticed noticing noticed: the difference | a strange smell | a change in {person}
prefer prefers preferred preferring preferred: {food} | to {do} | the {color} {clothes_one}
guess guesses guessed guessing guessed: the answer | the right number | the age of {person}
trust trusts trusted trusting trusted: {person} | nobody | the {job}
thank thanks thanked thanking thanked: {person} for the {thing} | god
blame blames blamed blaming blamed: {person} for the accident | the government
check checks checked checking checked: the list | the {machine} | the time | every page twice
count counts counted counting counted: the money | to {number} | on {person}
pass passes passed passing passed: the exam | the {food} to {person} | {place} without stopping
press presses pressed pressing pressed: the button | the {color} key
rent rents rented renting rented: a~ {vehicle} | an apartment near {place}
rest rests rested resting rested: for {few} minutes | under a tree | in the shade
shout shouts shouted shouting shouted: at {person} | for help | from the roof
whisper whispers whispered whispering whispered: something to {person} | the secret
serve serves served serving served: {meal} at {clock} | the guests | {drink} with the {food}
shut shuts shut shutting shut: the door | the {thing} | the windows at night
solve solves solved solving solved: the {problem} | the mystery
suffer suffers suffered suffering suffered: from a disease | a great loss
taste tastes tasted tasting tasted: the {food} | the {drink}
tear tears tore tearing torn: the {clothes_one} | the letter into pieces
treat treats treated treating treated: {person} like a child | the patient
warn warns warned warning warned: {person} about {topic} | {person} of the danger
waste wastes wasted wasting wasted: time | {money} on {thing+} | a lot of food
design designs designed designing designed: a new {machine} | a bridge | {clothes} for women
control controls controlled controlling controlled: the {machine} | the whole area
create creates created creating created: a new system | jobs for the {job+} | a piece of art
support supports supported supporting supported: the team | {person} | a large family
attack attacks attacked attacking attacked: the {animal} | the city at night
act acts acted acting acted: like a fool | in a play
argue argues argued arguing argued: with {person} about {topic} | about money
attend attends attended attending attended: {event} | a meeting in {country} | the university
bake bakes baked baking baked: a cake for {person} | fresh bread
bite bites bit biting bitten: into an apple | the {animal}
blow blows blew blowing blown: out the candles | the whistle
burn burns burned burning burned: the {food} | old letters | wood
complain complains complained complaining complained: about {topic} | about the {food} | to the {job}
connect connects connected connecting connected: the {machine} to the wall | the two wires
copy copies copied copying copied: the document | the answers from {person}
cover covers covered covering covered: the {furniture} with a cloth | the {food}
deliver delivers delivered delivering delivered: the {thing} to {place} | pizza | the mail
dig digs dug digging dug: a deep hole | in the sand
dream dreams dreamed dreaming dreamed: about {person} | of {country} | about the {animal}
earn earns earned earning earned: {money} an hour | a living | respect
expect expects expected expecting expected: {person} at {clock} | a letter from {person} | too much | a baby
fail fails failed failing failed: the test | to {do}
freeze freezes froze freezing frozen: the {food} | to death
handle handles handled handling handled: the {problem} | the situation well
hurry hurries hurried hurrying hurried: to {place} | home | to catch the {vehicle}
hurt hurts hurt hurting hurt: {person} | a leg in {event}
kiss kisses kissed kissing kissed: {person} on the cheek | the baby
knock knocks knocked knocking knocked: on the door | over the {thing}
lay lays laid laying laid: the {thing} on the {furniture} | the table for {meal}
lead leads led leading led: the team | {person} through the {room} | a quiet life
lend lends lent lending lent: {person} the {thing} | {person} {money}
lock locks locked locking locked: the door | the {vehicle} | {person} in the {room}
measure measures measured measuring measured: the temperature | the {furniture}
mention mentions mentioned mentioning mentioned: {topic} | the name of {person}
mix mixes mixed mixing mixed: the {food} with {food} | red and yellow
offer offers offered offering offered: {person} some {drink} | {person} a job | help
own owns owned owning owned: a~ {adj} house | {few} {animal+} | a shop
pack packs packed packing packed: the suitcase | the {clothes} into the box
paint paints painted painting painted: the {furniture} {color} | the walls of the {room} |
    a picture of {person}
plant plants planted planting planted: a tree | {few} flowers | vegetables
point points pointed pointing pointed: at {person} | to the sky | a gun at the door
pour pours poured pouring poured: the {drink} into a glass | hot water over the tea
practice practices practiced practicing practiced: the {instrument} | {language} with {person} | law
pray prays prayed praying prayed: for {person} | in church | for rain
pretend pretends pretended pretending pretended: to {do} | not to hear
print prints printed printing printed: the document | {few} copies of the report
produce produces produced producing produced: oil | cars in {country} | milk and {food}
publish publishes published publishing published: a book about {topic} | an article
reach reaches reached reaching reached: {place} by {clock} | the top of the mountain | for the {thing}
receive receives received receiving received: a letter from {person} | a prize | bad news
record records recorded recording recorded: a song | the conversation
remove removes removed removing removed: the {furniture} from the {room} | the stain
repair repairs repaired repairing repaired: the {machine} | the {vehicle} | {clothes}
repeat repeats repeated repeating repeated: the question | the same mistake
reply replies replied replying replied: to the letter | at once | with a smile
report reports reported reporting reported: the crime | the accident to the police
ring rings rang ringing rung: the bell | {person} from {place}
rise rises rose rising risen: early in {season} | to the top
search searches searched searching searched: the {room} for the {thing} | for {person}
shoot shoots shot shooting shot: at the {animal} | an arrow
sign signs signed signing signed: the contract | the letter | here
smell smells smelled smelling smelled: the flowers | the {food} | smoke
smoke smokes smoked smoking smoked: a cigarette | in the {room}
spell spells spelled spelling spelled: the word | the name correctly
swim swims swam swimming swum: across the river | in the sea | with {person}
tie ties tied tying tied: the {animal} to a tree | the rope
translate translates translated translating translated: the text into {language} | for {person}
weigh weighs weighed weighing weighed: the {food} | {hundreds} pounds
welcome welcomes welcomed welcoming welcomed: {person} to {country} | the guests
wish wishes wished wishing wished: {person} good luck | for a~ {adj} {thing} | to be alone
wonder wonders wondered wondering wondered: about {topic} | about the future
"""

SLOTS = """
i: i | you | we | they | {plural}
she: he | she | {person_third} | my {relative} | the {job} | {name} | nobody | everybody | someone
anyone: {i} | {she}
person_third: my {relative} | {name} | {name} | the {job} | our neighbor | my best friend | the old man |
    the young woman
person: {person_third} | my {relative} | my {relative} | your {relative} | him | her | them | us | me |
    my friends | the children | everyone | our guests
plural: my parents | the children | our neighbors | my friends | most people | the {job+} | some people |
    the girls | the boys | those men | these women
relative: mother | father | sister | brother | grandmother | grandfather | aunt | uncle | cousin | son |
    daughter | wife | husband | mom | dad | nephew | niece
job: teacher | doctor | nurse | farmer | driver | lawyer | singer | writer | painter | baker | waiter |
    manager | engineer | student | soldier | police officer | actor | artist | scientist | pilot | dentist |
    builder | cook | judge | boss | secretary | captain
name: anna | tom | mary | john | peter | susan | david | linda | michael | sarah | james | emma | robert |
    lucy | paul | jane | george | alice | henry | kate | daniel | julia | mark | laura | jack | helen | sam |
    amy | ben | rose | charles | maria | william | nancy | frank | lisa | steven | karen | joe | grace |
    richard | diana | eric | martha | oliver | sophie
place: the bank | the post office | the station | the airport | the school | the office | the hospital |
    the beach | the park | the library | the market | the supermarket | the museum | the theater |
    the restaurant | the church | the river | the lake | the zoo | the hotel | the gym | the corner shop |
    the bus stop | the city center | the farm | the university | the bakery | the swimming pool |
    the village | the harbor | the castle | the police station | the drugstore | the factory | the mall |
    the stadium | the garage | the cafe | the movies
city: city | town | village | old town | capital | north | south | east | west | forest | mountains | desert |
    country
country: america | england | france | germany | italy | spain | china | japan | india | canada | mexico |
    brazil | australia | africa | europe | russia | ireland | scotland | egypt | greece | london | paris |
    new york | rome | california | texas | sweden | poland
language: english | french | german | spanish | chinese | italian | japanese | russian | arabic | portuguese
room: kitchen | bathroom | bedroom | living room | garden | hall | basement | attic | garage | office | yard |
    dining room
furniture: table | chair | sofa | bed | desk | shelf | cupboard | lamp | couch | bench | drawer | carpet |
    mirror
thing: key | book | phone | bag | map | ticket | letter | watch | camera | box | knife | bottle | pen |
    pencil | umbrella | computer | picture | wallet | ring | ball | basket | blanket | towel | bowl | plate |
    cup | fork | spoon | clock | radio | guitar | newspaper | passport | suitcase | toy | hammer | rope |
    candle | brush | pillow | present | notebook | card | tool | gift | flag | coin | stone | magazine |
    document | piece of paper
machine: computer | washing machine | car | television | radio | phone | printer | refrigerator | oven |
    heater | engine | camera | clock | lamp | fan | elevator
problem: problem | question | situation | mistake | plan | idea | rule | difference | news | test | exercise
vehicle: bus | train | car | taxi | boat | plane | bicycle | subway | ship | truck
vehicle_a: the bus | the train | the car | a taxi | a boat | a plane | the subway | the ferry
clothes: shoes | socks | pants | gloves | boots | jeans | clothes | shorts | trousers
clothes_one: shirt | coat | jacket | dress | hat | sweater | skirt | scarf | tie | suit | belt | uniform |
    cap
color: red | blue | green | yellow | black | white | brown | gray | orange | purple | pink | dark blue |
    light green | silver | golden
animal: dog | cat | bird | horse | cow | mouse | snake | bear | rabbit | pig | sheep | duck | chicken |
    elephant | lion | tiger | wolf | fox | monkey | frog | goat | spider | bee | butterfly | owl | deer
food: bread | cheese | rice | fish | chicken | beef | soup | salad | pasta | pizza | fruit | chocolate |
    ice cream | butter | potatoes | tomatoes | beans | eggs | meat | cake | sugar | honey | corn | apples |
    bananas | grapes | strawberries | carrots | mushrooms | nuts | cookies | pork | bacon | jam | onions |
    peas | lettuce | cherries | lemons
a_food: some {food} | some {food} | a bowl of soup | a sandwich | an apple | an orange | a banana |
    a piece of {food} | a~ {adj} cake | a hot dog | a slice of pizza | a steak | a boiled egg |
    some {food} and {food}
drink: water | coffee | tea | milk | juice | orange juice | wine | beer | hot chocolate | cold water |
    lemonade | soda
meal: breakfast | lunch | dinner | supper
sport: football | tennis | basketball | baseball | chess | golf | hockey | soccer | volleyball
instrument: piano | guitar | violin | drums | flute | trumpet
subject: history | music | art | science | math | biology | chemistry | physics | geography | law | medicine |
    economics
chore: housework | homework | dishes | laundry | shopping | cooking | cleaning | gardening | report |
    packing
event: the party | the wedding | the meeting | the concert | the game | the birthday party | the trip |
    the holidays | christmas | the exam | the race | the dance | the festival | the interview | the funeral |
    the picnic
topic: the weather | politics | money | work | the war | love | the future | the past | the movie |
    the accident | the weekend | the new house | life | the government | the company | the law | health |
    {country} | {subject} | {sport} | {event} | the {animal+} | the president | the election | the economy |
    the environment | space | the stars | religion | dreams | the {problem} | nothing
adj: old | new | big | small | good | bad | nice | beautiful | ugly | cheap | expensive | long | short |
    heavy | light | strange | funny | famous | little | great | wonderful | terrible | simple | huge | tiny |
    lovely | quiet | interesting | boring | perfect | important | special | useful | broken | clean | dirty |
    empty | full | modern | dangerous | strong | soft | hard | round | warm | different | amazing | silly |
    serious | pretty
feeling: happy | sad | tired | hungry | thirsty | angry | afraid | lonely | bored | excited | nervous |
    proud | worried | surprised | sorry | lucky | fine | better | sick | sleepy | ready | sure | safe | calm |
    busy | confused | jealous | ashamed | free | healthy | alone | alive | weak | strong | terrible | great |
    comfortable
very: very | so | a bit | really | too | quite | pretty | a little | rather | not | still | always | never |
    almost | extremely | completely
late: early | late | very early | too late | before sunrise | after midnight | on time
back: back | again | tonight | every day | in the morning
day: monday | tuesday | wednesday | thursday | friday | saturday | sunday
month: january | february | march | april | may | june | july | august | september | october | november |
    december
season: spring | summer | autumn | winter | fall
past: yesterday | last night | last week | last {day} | last {month} | {few} days ago | {few} years ago |
    this morning | on {day} | in {year} | a long time ago | an hour ago | once | the day before yesterday |
    last {season} | by mistake | together | in the end | without me
future: tomorrow | tonight | next week | next {day} | next {month} | on {day} | in {few} minutes |
    in {few} days | soon | later | this afternoon | this evening | at {clock} | right now | after {meal} |
    before {meal} | next year | the day after tomorrow | in {month} | someday | this weekend |
    as soon as possible
habit: every day | every morning | every {day} | on {day}s | all the time | twice a week | once a month |
    in the evening | in {season} | after work | at night | on weekends | before {meal} |
    at least once a year | in {month}
often: always | never | often | usually | sometimes | rarely | hardly ever | still | also | really |
    probably | just | only | almost never
never: never | already | just | always | finally | almost | even
will: will | can | could | should | must | might | would | may | can't | won't | shouldn't | couldn't |
    wouldn't | must not | would never | will probably | have to | used to | want to | need to | ought to |
    would like to
will_third: will | is able to | can | could | should | must | might | would | can't | won't | shouldn't |
    couldn't | wouldn't | will never | has to | used to | wants to | needs to | may | doesn't want to
they_ll: i'll | you'll | we'll | they'll | he'll | she'll | i'd | we'd | you'd better | i'd rather | let's |
    i can't | don't | it'll be nice to | it's time to | it's hard to | it's easy to | i'd love to |
    we ought to
am: i'm | you're | we're | they're | he's | she's | i'm not | you aren't | we aren't | they aren't |
    he isn't | she isn't | {person_third} is | {plural} are | {person_third} isn't
was: i was | you were | we were | they were | he was | she was | it wasn't me who was | {person_third} was |
    {plural} were | i wasn't | they weren't
have: i've | you've | we've | they've | i haven't | we haven't | they haven't | {plural} have | he has |
    she has | she hasn't | {person_third} has | he's | she's
be_third: is | was | isn't | wasn't | will be | must be | can't be | has been | looks | seems | smells |
    felt
because: because | so | but | and then | and | although | when | before | after | until | while | if | since |
    as soon as | unless
weather: raining | snowing | cold | hot | warm | windy | cloudy | sunny | foggy | freezing | wet | dry |
    cool | dark | humid | stormy
direction: left | right | around | north | south | back
wh: when | where | why | how | how often | with whom
body: head | arm | leg | back | foot | hand | knee | shoulder | stomach | tooth | ear | eye | neck | finger |
    throat | nose | heart | chest | toe
money: {number} dollars | {few} dollars | {age} cents | {hundreds} dollars | {age} dollars |
    {few} dollars and {age} cents | {age} pounds | {few} euros | {number} euros
unit: miles | minutes | hours | days | weeks | months | years | meters | pounds | feet | inches | seconds |
    kilometers | people | pages | dollars | times | percent
opener: well, | oh, | oh no, | actually, | yes, | no, | maybe | by the way, | of course | okay, | so |
    sorry, but | you know, | look, | in fact, | i think | i guess | i hope | i'm sure | i know | i believe |
    i'm afraid | perhaps | suddenly | luckily, | honestly, | today | they say | i heard that |
    we all know that | it's true that | first of all, | for example,
closer: , please | , thank you | , thanks | , my friend | , i think | , right | , too | , of course |
    , you know | , you see | , sir | , madam | , dear | , {name} | , or maybe not | , as usual | , for sure
"""

# What is said, by kind: the weight of the kind, then its sentences. A statement may get a full stop.
SENTENCES = """
30 does: {she} {does} {habit} | {she} {does} | {she} {often} {does} | {i} {do} {habit} | {i} {often} {do} |
    {i} don't {do} {habit} | {she} doesn't {do} | {plural} {do} {habit}
30 did: {anyone} {did} {past} | {anyone} {did} | {anyone} {did} {past} | {anyone} didn't {do} |
    {have} {never} {done} | {have} {done} | {have} been {doing} for {few} {span}
30 will: {i} {will} {do} | {she} {will_third} {do} {future} | {they_ll} {do} {future} | {they_ll} {do} |
    {am} going to {do} {future} | {am} {doing} | {am} {doing} {future} | {was} {doing} when {anyone} {did}
18 two: {anyone} {did} {because} {anyone} {did} | {am} {feeling} because {she} {did} |
    if {i} {do}, {i} {will} {do} | when {she} {does}, {i} {do} | {i} {will} {do}, but {i} don't {do} |
    after {meal}, {anyone} {did} | on {day}, {anyone} {did} | in {year}, {anyone} {did} |
    {i} {do} and {she} {does}
30 asks: do {i} {do}? | does {she} {do}? | did {anyone} {do} {past}? | did {anyone} {do}? |
    will {anyone} {do} {future}? | can {anyone} {do}? | could you {do}? | would you like to {do} {future}? |
    have you ever {done}? | are you {doing}? | are you going to {do}? | is {person_third} {doing}? |
    should we {do} {future}? | don't you {do}? | didn't {anyone} {do}? | why don't we {do} {future}? |
    shall we {do}? | may i {do}?
24 wh: {wh} did {anyone} {do}? | why did {anyone} {do}? | when will {anyone} {do}? | who {did} {past}? |
    who wants to {do}? | how can i {do}? | where can we {do}? | why is {person_third} {doing}? |
    how many {unit} does it take to {do}? | which {thing} is yours? | whose {thing} is this? |
    what color is the {thing}? | how old is your {relative}? | where's the {thing}? |
    where are my {clothes}? | how much is the {color} {clothes_one}? | how far is it to {place}? |
    how do you spell {name}? | what's the {language} word for {food}? | what time does {event} start? |
    what kind of {food} do you like? | who is {name}? | what's wrong with the {machine}? |
    when does the next {vehicle} leave? | what do you think about {topic}? | how long did {event} last? |
    when is your birthday? | what happened to the {thing}? | who's there? | what's your name? |
    what does your {relative} do? | how's your {relative}? | how are you today? | where are you from? |
    what did you say? | why not? | what else? | since when?
24 please: please {do} | please don't {do} | could you please {do}? | don't {do}{closer} | {do}{closer} |
    would you mind {doing}? | let me {do} | let's {do} {future} | let's not {do} | never {do} |
    try not to {do} | remember to {do} {future} | i want you to {do} | you'd better {do} |
    turn {direction} at {place} | pass me the {food}, please | give me the {color} {thing} |
    i'd like {a_food}, please | i'll have the {food} and {drink}, please | can i have {a_food}? |
    may i have some {drink}, please? | a cup of {drink}, please | two tickets to {country}, please |
    wait a minute, please | be careful with the {thing} | please call me at {digits} | come in and sit down |
    go straight ahead and turn {direction} | please repeat the number {number} | tell me about {topic}
20 is: the {thing} {be_third} {very} {adj} | the {thing} is on the {furniture} |
    the {thing} is in the {room} | this {thing} {be_third} {very} {adj} | that's a~ {adj} {thing} |
    it's a~ {adj} {color} {thing} | there's a~ {adj} {thing} on the {furniture} |
    there are {few} {animal+} in the {room} | there isn't any {drink} in the {room} |
    {name}'s {thing} {be_third} {color} | my {relative}'s {clothes_one} {be_third} {color} |
    the {color} {clothes_one} {be_third} {very} {adj} | these {clothes} are {very} {adj} |
    those {clothes} aren't mine | the {animal} {be_third} {very} {adj} |
    a~ {animal} is bigger than a~ {animal} | {am} {very} {feeling} | {was} {very} {feeling} {past} |
    {am} a~ {job} | {am} at {place} | {am} from {country} | the {food} {be_third} {adj} |
    {person_third} is the best {job} in {country} | nothing is more {adj} than {food} |
    {event} was {very} {adj} | {place} is closed on {day} | {place} is next to {place} |
    {place} is behind {place} | the {machine} doesn't work anymore | what a~ {adj} {thing} |
    that {thing} isn't yours, it's {name}'s | here's your {thing} | here are the {clothes} |
    both {thing+} are {color} | each {thing} costs {money} | {color} is my favorite color
12 hello: hello, my name is {name} | hello, {name} | hi, {name}, how are you? | good {daypart}, {name} |
    good {daypart}, how are you? | good {daypart}, my name is {name} |
    my name is {name} and i'm from {country} | my name is {name} and i'm a~ {job} | nice to meet you, {name} |
    goodbye, {name} | bye, see you {future} | see you {future}, {name} | welcome to {country} |
    welcome home, {name} | happy birthday, {name} | this is my {relative}, {name} |
    i'm {name} and this is {name} | how have you been, {name}? | say hello to {person} |
    thanks for the {thing}, {name} | thank you very much, {name} | excuse me, where is {place}? |
    excuse me, is this {place}? | i'm sorry about the {thing} | sorry i'm late, {name} | take care, {name} |
    have a good {daypart}, {name} | congratulations, {name} | long time no see, {name} |
    my {relative}'s name is {name}
6 short: yes, please | no, thank you | yes, of course | of course not | i don't know | i don't think so |
    i think so | maybe later | not yet | not today | all right | that's right | that's wrong | never mind |
    no problem | you're welcome | me too | me neither | so do i | i hope so | i'm afraid not | sounds good |
    good idea | good luck | well done | here you are | there you go | come on | go ahead | hurry up |
    be quiet | look out | watch out | help me | wait here | why not? | really? | are you sure? | is that so? |
    what's that? | who is it? | yes | no | okay | hello | thanks | please | sorry | goodbye | excuse me |
    certainly | absolutely | exactly | maybe | perhaps | nothing | everything | nobody knows | it's me |
    it's okay | it doesn't matter | i can't wait | i don't care | i'm not sure | i've no idea | let me see |
    it depends | that's all | that's enough | what a pity | oh dear | {day} | {month} | {color} | {name} |
    {animal} | {food} | {thing} | {country} | {feeling} | {job} | {adj} | {drink} | {room} | {body} |
    yes, {name} | no, {name} | yes, i {do_aux} | no, i {dont_aux} | no, he {does_not} | yes, she {does_aux}
12 number: {number} | {number} | {number} {unit} | {hundreds} {unit} | {few} or {few} {unit} |
    {few} plus {few} is {age} | {few} times {few} is {age} | {few}, {few}, {few} |
    my phone number is {digits} | the number is {digits} | room {hundreds}, please | chapter {age} |
    page {hundreds} | the {nth} of {month} | {month} {nth} | {month} the {nth}, {year} | in {year} | {year} |
    {money} | it costs {money} | that's {money}, please | it's {number} {unit} long |
    about {number} people live in {country} | {name} is {age} years old | my {relative} is {age} years old |
    i was born in {year} | she was born on {month} the {nth} | {country} won the war in {year} |
    the house was built in {year} | bus number {age} | {age} percent of the people agree |
    it's {age} degrees outside | he owes me {money} | flight {digits} to {country} | half a dozen eggs |
    a hundred and one | the {nth} time | the {nth} floor | the {nth} street on the {direction}
10 time: it's {clock} | it's {clock}, {name} | it's almost {clock} | at {clock} |
    the {vehicle} leaves at {clock} | {event} starts at {clock} | {meal} is at {clock} |
    {place} opens at {clock} | {place} closes at {clock} on {day} | let's meet at {clock} at {place} |
    today is {day} | today is {day}, {month} {nth} | tomorrow is {day} | yesterday was {day} |
    it's {day}, the {nth} of {month} | see you on {day} at {clock} | from {day} to {day} |
    between {clock} and {clock} | {few} {unit} later | is it {clock} already? | is it {day} today? |
    {event} is on {day} at {clock} | we have until {clock} | my birthday is in {month} |
    {month} comes before {month} | i'll be there by {clock}
6 letter: the letter {letter} | {letter} as in {thing} | {letters} | {letter} {letter} |
    {letter} {letter} {letter} | {letter}, {letter}, {letter} | it starts with the letter {letter} |
    it's spelled {letters} | {name} starts with a {letter} | u s a | the u s a | u k | t v | a b c | d v d |
    p m | {clock} p m | {clock} a m | plan {letter} | vitamin {letter} | gate {letter} {few} |
    row {letter}, seat {age} | section {letter} | is that with {letter} or with {letter}? |
    my last name is spelled {letters} | the code is {letters} {digits}
8 weather: it's {weather} today | it's {weather} and {weather} | it was {weather} {past} |
    it'll be {weather} {future} | it's {very} {weather} in {country} | it's {very} {weather} outside |
    is it {weather} in {country}? | will it be {weather} {future}? | it's getting {weather} |
    it's {weather}, take your {clothes_one} | {season} in {country} is {very} {weather} |
    it's never {weather} in {month} | the sun is shining in {country} | the wind is {very} strong |
    there'll be snow {future} | there's going to be a storm {future} | the sky is {color} |
    what's the weather like in {country}? | i love it when it's {weather} |
    if it's {weather}, {i} {will} {do}
6 health: my {body} hurts | my {body} and my {body} hurt | does your {body} hurt? |
    what's wrong with your {body}? | i broke my {body} {past} | i have a fever and a headache |
    she hurt her {body} {past} | he has a pain in his {body} | wash your {body} with cold water |
    take {few} pills every day | you should see a doctor about your {body} | i've had a cough for {few} days |
    get well soon, {name} | are you feeling {feeling}? | my {relative} is in the hospital |
    {name} has brown eyes and long hair | open your mouth and close your eyes | his {body} is bleeding |
    the {job} looked at my {body} | he raised his {body}
10 more: the {color} {animal} ran across the street | {person_third} has {few} {animal+} and a~ {animal} |
    i've got {few} {relative+} | {name} and {name} {did} {past} | {name} and i {did} |
    both {name} and {name} {do} | neither of us {does} | the {job} and the {job} {do} |
    i'm looking for a~ {adj} {color} {clothes_one} | i've lost my {thing} and my {thing} |
    do you have this {clothes_one} in {color}? | do you prefer {food} or {food}? | {food} or {food}? |
    {drink} or {drink}? | {food} with {food} | bread and butter | {food}, {food} and {food} |
    {name}, {name} and {name} | {color}, {color} and {color} | {day}, {day} and {day} |
    i'd rather have {food} than {food} | the {thing} belongs to {person} | i can't believe {anyone} {did} |
    i wish {anyone} {did} | i'm glad {anyone} {did} | do you know if {anyone} {did}? |
    {person_third} said that {anyone} {did} | i wonder why {anyone} {did} | no one {does} |
    everything in {country} is {very} {adj} | somebody {did}, didn't they? | {name} {does}, doesn't he? |
    you {do}, don't you? | it's {very} {adj}, isn't it? | is there any {drink} left? |
    is anybody at {place}? | are there any {animal+} in {country}? | {place} is {few} {unit} from here |
    it's only {few} {unit} to {place} | the road to {country} is long
24 nouns: the {noun} of the {noun} {be_third} {very} {adj2} | the {noun} {linking} the {noun} |
    a~ {adj2} {noun} | a~ {adj2} {noun} and a~ {adj2} {noun} | the {adj2} {noun} |
    this {noun} {be_third} {adj2} | is the {noun} {adj2}? | what is the {noun} of the {noun}? |
    that was a~ {adj2} {noun} | there was a~ {adj2} {noun} | every {noun} has a~ {noun} | i need a~ {noun} |
    we need another {noun} | who has the {noun}? | which {noun} is {adj2}? | it depends on the {noun} |
    it's a question of {abstract} | such a~ {adj2} {noun} | the {noun}, the {noun} and the {noun} |
    it's more than a~ {noun} | is there a~ {noun} {linking} the {noun}? | it seems {adj2} to me |
    it's {adj2} that {anyone} {did} | {she} {did} like a~ {adj2} {noun} | how {adj2} the {noun} is |
    the {noun} became {adj2} | the {noun} whose {noun} {be_third} {adj2} |
    neither the {noun} nor the {noun} is {adj2} | either the {noun} or the {noun} is {adj2} |
    i don't see the {noun} | her {noun} and their {noun} are {adj2} | its {noun} {be_third} {adj2} |
    our {noun} isn't as {adj2} as yours | whatever the {noun}, {i} {do} | it's not the {noun} that matters |
    even the {noun} {be_third} {adj2} | any {noun} is better than no {noun} |
    his own {noun} {be_third} {adj2} | the {noun} itself is {adj2} | that {noun} could've been {adj2} |
    it would've been {adj2} | there's been a~ {noun} | they've got the same {noun} |
    i'd never seen such a~ {noun} | you're the one with the {noun}
10 self: am i {feeling}? | i am {very} {feeling} | i am not {feeling} | i am a~ {job} | am i too late? |
    what am i doing here? | what are you doing {future}? | what's {person_third} doing? |
    nothing can be done about {topic} | i've done the {chore} | the {chore} must be done |
    we're being {feeling} | you're being {adj2}, {name} | the {noun} is being repaired |
    what have you done with the {thing}? | what's being done about {topic}? | {self_did} {past} | {self_did} |
    what's the matter, {name}? | what're you {doing}? | there's no {noun} like home | that'll be {money} |
    who'll {do}? | who's {doing}? | where'd you {do}? | it'd be better to {do} | you should've {done} |
    i could've {done} | we must've {done} | {anyone} had {done} before {anyone} {did} |
    {anyone} hadn't {done} yet | {plural} weren't {doing} | weren't you {doing}? |
    isn't {person_third} {doing}? | aren't you {feeling}? | wasn't it {adj2}? |
    hasn't {person_third} {done}? | haven't you {done} yet? | won't you {do}? | couldn't we {do}? |
    shouldn't we {do}? | can't you {do}? | wouldn't it be {adj2}? | doesn't {person_third} {do}?
8 opened: {opener} {anyone} {did} | {opener} {she} {does} | {opener} {i} {do} | {opener} {am} {feeling} |
    {opener} the {thing} is {adj} | {opener} it's {weather} | {opener} {they_ll_plain} {do}
8 world: the {leader} {led} {led_by} | the {leader} {led} | {group} {group_did} | {group} {group_did} {past} |
    {abstract} is {very} {adj} | {abstract} and {abstract} are {adj} |
    what's the difference between {abstract} and {abstract}? | without {abstract} there is no {abstract} |
    i don't believe in {abstract} | {nature} {nature_did} | {nature} {nature_did} {past} |
    the {adj} {material} {clothes_one} is mine | it could be worse | the worst is over |
    i'll take the other one | i'm glad to hear it | it's made of {material} | is it made of {material}? |
    the {thing} was made of {material} | a {material} {thing} | {position} the {furniture} |
    {position} the {furniture} there's a~ {adj} {thing} | we walked {position_go} the {outside} |
    the {animal} ran {position_go} the {outside} | the {outside} is {very} {adj} | the {shape} is {color} |
    i {adverb} agree with {person} | {she} {adverb} {did} | {i} {adverb} {did} {past} |
    {quantity} of the {group_word} {do} | {quantity} of us {do} | {quantity} of them {did}
"""

MORE_SLOTS = """
daypart: morning | afternoon | evening | night | day
do_aux: do | am | can | will | have | did | would | was | could | should
dont_aux: don't | can't | won't | haven't | didn't | wouldn't | wasn't | couldn't | shouldn't | must not
does_aux: does | is | can | will | has | did | would | was | could | should
does_not: doesn't | isn't | can't | won't | hasn't | didn't | wouldn't | wasn't | couldn't | hadn't
they_ll_plain: i'll | we'll | they'll | he'll | she'll | you'll | i can | we should | you must | they might
leader: president | king | queen | minister | general | leader | prince | princess | mayor | chief |
    director | committee | court | army | government | church | company | council | party
led: made a speech about {topic} | refused to answer | signed the law | lost the election | promised to {do} |
    accepted the offer | called for peace | raised the taxes | attacked the enemy | supported the workers |
    expected a report | described the {problem} | offered a reward | produced a~ {adj} result |
    received {number} votes | discussed {topic} | announced a new plan | appeared on television |
    considered the {problem} | died suddenly | developed a new system
led_by: {past} | in {country} | for the first time | in public | without a reason | despite the danger |
    according to the paper
group: the crowd | the team | the audience | the public | the whole class | the other side | the crew |
    the band | the society | the union | the police | a group of {job+} | several members |
    hundreds of people | thousands of {animal+} | the guests | the workers | the customers
group_word: {job+} | people | children | women | men | members | workers | animals | students
group_did: shouted and cheered | fought for freedom | reached the top | followed the leader |
    entered the building | escaped from prison | crossed the border | gathered in the square |
    marched through the streets | disappeared | returned in silence | fell asleep | demanded higher wages |
    caused a lot of damage | lay on the ground | rose to their feet | hid in the dark | struck at midnight |
    covered the distance in {few} {unit} | shook hands | burned down the {outside} | won by {few} points |
    joined the club | pushed and pulled | jumped up and down | prepared for war
abstract: love | peace | war | freedom | justice | beauty | truth | knowledge | power | success | death |
    life | hope | faith | fear | pain | pleasure | luck | nature | history | education | experience | time |
    money | health | art | music | culture | science | language | friendship | happiness | silence |
    patience | progress | strength | wisdom | trust | honesty | courage | pride | anger | trade | religion |
    business | industry | action | value | order | duty
nature: the sun | the moon | the wind | the river | the rain | the storm | a cloud | the snow | the ice |
    the fire | the smoke | the tree | the grass | the sea | a wave | a leaf | the earth | the light |
    the shadow | the flood
nature_did: covered the {outside} | destroyed the {outside} | moved slowly |
    disappeared behind the {outside} | rose in the {city} | was {very} bright | looked {very} {adj} |
    touched the ground | came through the window | turned {color} | reached the {outside} | grew dark |
    fell on the {outside} | crossed the {outside} | woke us up | made us {feeling}
outside: hill | valley | field | bridge | road | street | fence | wall | roof | tower | tree | forest |
    island | beach | gate | path | building | corner | river | lake | house | farm | square | tunnel | coast
material: wood | wooden | glass | paper | gold | silver | iron | steel | stone | plastic | leather | cotton |
    wool | silk | rubber
position: under | on | behind | beside | above | below | near | next to | in front of | on top of | inside |
    against | between you and
position_go: across | along | through | over | around | past | toward | up to | away from | into | beyond |
    down to
shape: circle | square | line | triangle | corner | edge | surface | top | bottom | middle | center | end |
    front | side | star | cross | point | shape
self_did: i hurt myself | he taught himself {language} | she made herself {meal} | we enjoyed ourselves |
    they introduced themselves | you did it yourself | the {animal} washed itself |
    they looked at each other | i did it all by myself
adverb: quickly | slowly | quietly | carefully | easily | suddenly | certainly | clearly | simply | finally |
    nearly | hardly | directly | recently | especially | immediately | happily | sadly | politely | secretly |
    actually | probably | seriously | perfectly | gently | barely | exactly | really | strongly | usually |
    once | twice | already
span: seconds | minutes | hours | days | weeks | months | years | {few} years | a while
noun: person | body | place | case | state | country | area | family | group | company | system | program |
    question | number | night | point | home | room | word | fact | month | lot | right | study | book | eye |
    job | business | issue | side | kind | head | house | service | friend | hour | game | line | end |
    member | law | car | city | community | name | president | team | minute | idea | kid | information |
    level | office | health | art | war | party | result | change | morning | reason | research | moment |
    air | teacher | force | voice | age | policy | process | sense | plan | market | interest | experience |
    death | course | effect | class | control | field | development | role | effort | rate | heart | drug |
    show | leader | light | price | action | decision | view | report | town | road | arm | relationship |
    difference | value | building | season | society | tax | director | position | player | record | paper |
    space | ground | form | event | official | matter | center | couple | site | project | activity | star |
    table | need | court | oil | situation | cost | industry | figure | street | image | phone | data |
    picture | practice | piece | land | product | doctor | wall | patient | worker | news | test | movie |
    north | love | step | technology | computer | film | hair | source | quality | page | section | standard |
    letter | choice | shape | size | method | story | message | rule | chance | opinion | goal | response |
    article | weight | surface | answer | board | subject | example | pattern | model | memory | purpose |
    structure | machine | foot | character | material | condition | skin | blood | bottom | mouth | smile |
    shoulder | expert | budget | style | future | sound | song | officer | campaign | attention | evidence |
    growth | loss | population | pressure | performance | treatment | animal | security | science | nature |
    bank | trial | skill | resource | speech | task | truth | management | production | language | crime |
    sign | attack | disease | direction | environment | agreement | energy | speed | theory | title |
    temperature | design | function | item | race | owner | network | note | corner | rest | gun | dream |
    dinner | sort | benefit | discussion | trip | village | argument | statement | stage | sentence | sister |
    scene | stock | success | total | top | trouble | user | visitor | weapon | window | tradition |
    connection | description | education | amount | sample | search | secret | shadow | shot | signal | soul |
    spirit | spot | storm | stranger | struggle | suggestion | supply | surprise | trade | truck | tool |
    track | damage | danger | date | daughter | degree | detail | edge | election | entry | error | exchange |
    failure | fault | fight | flight | flower | focus | freedom | fuel | gas | gift | guess | guy | habit |
    hero | host | income | influence | injury | instruction | joke | journey | judge | jury | key | lady |
    lack | league | lesson | limit | link | list | loan | location | manner | marriage | mark | mass |
    master | metal | middle | mission | murder | muscle | neighbor | noise | object | occasion | operation |
    opportunity | order | origin | pair | path | payment | period | permission | photograph | planet | plate |
    pocket | poem | pool | possibility | prison | profit | proof | property | proposal | public | purchase |
    reaction | reality | recipe | relation | religion | request | respect | review | reward | risk | rock |
    root | route | salary | scale | schedule | screen | seat | series | sheet | shelter | sight | smell |
    soil | solution | sport | square | stress | string | studio | sum | survey | target | taste | thought |
    threat | touch | tour | transport | trick | type | union | unit | variety | version | victim | victory |
    volume | vote | wave | wheel | wind | wing | winner | wound | writer | zone | telephone | television |
    accident | account | advantage | advertisement | advice | agency | agent | alarm | ambulance | angle |
    apartment | appearance | appointment | attempt | attitude | author | background | balance | battle |
    beauty | behavior | bill | birth | bomb | border | bottle | brain | branch | breath | bridge | button |
    camp | career | cause | cell | century | ceremony | chain | chairman | challenge | chapter | chief |
    childhood | circle | citizen | climate | club | code | collection | college | comment | comparison |
    competition | complaint | concept | conclusion | conversation | copy | crash | cream | credit | crew |
    crisis | crowd | culture | cup | current | customer | cycle | deal | debt | defense | department |
    desire | document | doubt | duty | ear | engine | equipment | escape | estate | examination | exercise |
    explanation | explosion | expression | extent | eyes | factor | feature | feeling | file | finance |
    flow | fortune | frame | friendship | generation
adj2: available | awful | bitter | blind | brave | brief | bright | broad | careful | certain | clear |
    clever | close | common | complete | complicated | correct | crazy | cruel | curious | current | dead |
    deep | dear | difficult | double | dry | eager | easy | effective | enormous | entire | equal | evil |
    exact | excellent | extra | extreme | fair | false | familiar | fancy | fast | fat | final | firm | flat |
    foreign | former | fresh | friendly | gentle | general | generous | grateful | guilty | harmless |
    helpful | honest | honorable | horrible | ideal | illegal | impossible | independent | individual |
    innocent | intelligent | international | kind | large | lazy | legal | likely | local | loose | loud |
    low | mad | main | major | married | mental | mild | military | minor | missing | moral | narrow |
    national | native | natural | nearby | necessary | negative | normal | obvious | odd | official | open |
    opposite | ordinary | original | painful | pale | past | patient | peaceful | permanent | personal |
    physical | plain | pleasant | poor | popular | positive | possible | powerful | present | previous |
    private | professional | proper | public | pure | rare | raw | ready | real | reasonable | recent |
    regular | religious | remarkable | responsible | rich | right | rough | royal | rude | secret | separate |
    sharp | short | shy | significant | similar | single | slow | small | smart | smooth | social | solid |
    sour | steady | steep | straight | strange | strict | stupid | successful | sudden | sweet | tall |
    terrific | thick | thin | tight | tough | traditional | true | typical | unusual | urban | usual |
    valuable | various | violent | visible | vital | weird | wet | whole | wide | wild | willing | wise |
    wooden | wrong | young
linking: of | without | behind | for | against | about | before | after | during | between us and | within |
    despite | because of | instead of | except | according to | among | throughout | like | under | above |
    beyond | since
quantity: most | some | many | few | none | all | half | several | both | two | three | a lot |
    ninety percent | the rest | the majority
"""


@cache
def _tables() -> tuple[dict[str, list[str]], list[list[str]], list[int]]:
    """The grammar, read: slots and what may fill them, the sentences of each kind, the kinds' weights."""
    slots: dict[str, list[str]] = {}
    for name, fills in _rows(SLOTS + MORE_SLOTS):
        slots[name] = fills
    forms = ("do", "does", "did", "doing", "done")
    slots |= {form: [] for form in forms}
    for verb, fills in _rows(VERBS):
        for form, word in zip(forms, verb.split(), strict=True):
            slots[form] += [f"{word} {fill}" for fill in fills]
    kinds, weights = [], []
    for name, sentences in _rows(SENTENCES):
        kinds.append(sentences)
        weights.append(int(name.split()[0]))
    return slots, kinds, weights


def _rows(table: str) -> list[tuple[str, list[str]]]:
    lines = re.sub(r"\n +", " ", table).splitlines()
    rows = (line.split(":", 1) for line in lines if line)
    return [(name, [fill.strip() for fill in fills.split("|")]) for name, fills in rows]


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
    if n < 0:
        raise ValueError(f"n is {n}, but a number of sentences is 0 or more")
    slots, kinds, weights = _tables()
    rng = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < n:  # ends: the grammar makes thousands of millions
        text = _expand(rng.choice(rng.choices(kinds, weights)[0]), slots, rng)
        text = re.sub(r"\ba~ (\w+)", _article, text)
        text = text if text.endswith("?") else text + "." * rng.randrange(2)
        words = _key(text)
        doubled = re.search(r"\b(\w+)(?:,| and| or| to| than) \1\b", text)  # "tea or tea?"
        if not doubled and len(text) <= MAX_CHARS and words.count(" ") < MAX_EVERYDAY_WORDS:
            found.setdefault(words, text)
    return list(found.values())


# ---------------------------------------------------------------------------------------------- together


def _key(text: str) -> str:
    """A sentence's words, by which two texts are compared: without case and punctuation."""
    return " ".join(re.findall(r"[a-z']+", text.lower().replace("\u2019", "'")))


def held_out() -> list[str]:
    """The sentences by which the voice is judged (`benchmarks.intelligibility`): it must not learn them."""
    return HELD_OUT.read_text(encoding="utf-8").splitlines()


def training_texts(wordnet: str | Path, n_everyday: int, seed: int, without: Iterable[str]) -> list[str]:
    """WordNet's examples and `n_everyday` everyday sentences, shuffled by `seed`; one text in 20 joins two.

    No text has the same words as another one, nor as one in `without`: case and punctuation do not count, and
    neither half of a joined text is in `without`. So up to `n_everyday` of everyday's sentences are there.
    """
    rng = random.Random(seed)
    taken = {_key(text) for text in without}

    def new(text: str) -> bool:
        key = _key(text)
        return key not in taken and not taken.add(key)

    texts = [t if t[-1] in ".?!" else t + "." * rng.randrange(2) for t in wordnet_examples(wordnet)]
    texts = list(filter(new, texts + everyday(n_everyday, seed)))
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
