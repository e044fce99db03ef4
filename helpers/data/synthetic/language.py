"""Whether a text is language at all: tells sentences from words in disorder, from loops and from unknown words.

It goes by which words follow each other: in the phrases of the embedded world, and in a list of common English pairs.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from helpers.data.synthetic import phrases
from helpers.data.synthetic.topics import intents, topics

# Words that say nothing about a text's subject.
STOP_WORDS = frozenset(
    """the and for with from that this them they their its his her you your how what into out all are was has have had
    not but one two each every can will would could should more also some any much when while until after before off
    then than too very get put let use keep make take""".split()  # noqa: SIM905
)
# Words that hold a sentence together: how they follow each other tells a sentence from words in disorder.
FUNCTION_WORDS = STOP_WORDS | frozenset(
    """a an i you he she it we me him us my our of to in on at by as is be been am do does did so or if no nor up down
    over under about there here which who why where again once only just may might must shall own same such these those
    both few most other because""".split()  # noqa: SIM905
)
# Pairs of function words that stand side by side in English sentences.
PLAUSIBLE = """
    of the; of a; of your; of it; of them; of my; of her; in the; in a; in your; in it; on the; on a; on your; at
    the; at a; at once; to the; to a; to your; to it; to be; to do; to you; to me; for the; for a; for your; for
    it; for you; for me; with the; with a; with your; with it; with that; with this; by the; by a; from the;
    from a; it is; that is; this is; there is; there are; here is; it will; it would; it can; you can; you
    could; you will; you may; you might; you should; you are; you do; you have; i am; i do; i can; i will; i
    would; i have; i could; we can; they are; they will; she is; she will; he is; he will; would be; will be;
    can be; should be; could be; may be; do not; does not; did not; is not; are not; will not; would not; should
    not; could not; must not; can not; not be; not do; not to; not a; not the; how to; how do; what to; what
    you; so that; so you; if you; if it; if they; when you; when it; while you; until it; until the; before you;
    after you; after the; before the; over the; under the; into the; into a; out of; up to; all the; all of; one
    of; each of; some of; most of; more of; as a; as the; as you; as it; is a; is the; is to; is in; is on; are
    the; but i; but it; but you; but the; but that; and the; and a; and then; and it; and you; and i; or a; or
    the; than the; than a; about it; about the; about your; about this; about that; because it; because the;
    that you; that i; that it; that the; that would; do it; do that; do this; have a; have the; be a; be the;
    just a; just be; let me; let it; let the; let them; make it; make the; put it; put the; put a; take a; take
    it; take the; use a; use the; keep a; keep it; keep the; get a; get the; get it; have to; i must; and your;
    your own; my own; her own; his own; you the; off the; to get; to make; to keep; to take; to have; to use; to
    let; to put; every day; each one; them in; them on; them to; it in; it on; it to; it for; it with; it from;
    it at; him to; her to; you to; me to; the other; the same; no one; with them; for them; to them; from it; of
    this; of that; to that; in this; on that; at all; so much; too much; very much; that way; and let; and put;
    and keep; and make; and take; and use; then let; then put; would make; would have; you had; she would; he
    would; they would; i might"""
# Words with which no sentence ends.
NO_ENDS = (["the"], ["a"], ["an"], ["of"], ["your"], ["and"], ["or"], ["if"], ["i"], ["my"], ["than"], ["into"])
UNKNOWN_WORDS = 0.55  # a text with a larger share of words that this world does not use is garbage
IMPLAUSIBLE = 0.31  # and so is one with a larger share of neighbouring words that do not go together
BEGINNING = 4  # letters by which a content word is known, so that "water" and "watering" are one


def is_garbled(text: str) -> bool:
    """True for a text without words, for loops, for mostly unknown words, and for words in an order of no sentence."""
    words = words_of(text)
    if not words:
        return True
    # A loop: three words that follow each other three times or more.
    triples = Counter(zip(words, words[1:], words[2:], strict=False))
    if triples and max(triples.values()) > 2:
        return True
    # Words of another language, or of none.
    unknown = sum(word not in FUNCTION_WORDS and not _is_known(word) for word in words)
    if unknown > UNKNOWN_WORDS * len(words):
        return True
    # Neighbours that do not go together, and sentences that stop too soon. One of these may happen to anybody.
    odd, neighbours = 0, 0
    for sentence in sentences_of(text):
        own = words_of(sentence)
        odd += own[-1:] in NO_ENDS
        for pair in pairwise(own):
            odd += not _goes_together(*pair)
            neighbours += 1
    return odd > 1 and odd > IMPLAUSIBLE * neighbours


def _goes_together(a: str, b: str) -> bool:
    """Whether word b may follow word a in a sentence."""
    known = _known()
    if (a, b) in known.neighbours:
        return True
    # Two function words: all pairs that go together are in the list.
    if a in FUNCTION_WORDS and b in FUNCTION_WORDS:
        return False
    # A function word and a content word: as that function word stands beside other content words.
    if a in FUNCTION_WORDS or b in FUNCTION_WORDS:
        return (_content_as_star(a), _content_as_star(b)) in known.patterns
    # Two content words that this world uses, but never side by side; of unknown words nothing can be said.
    return not (_is_known(a) and _is_known(b))


def _is_known(word: str) -> bool:
    return word[:BEGINNING] in _known().beginnings


def _content_as_star(word: str) -> str:
    return word if word in FUNCTION_WORDS else "*"


class _Known(NamedTuple):
    """What the texts of the embedded world hold.

    beginnings: the first four letters of each word. neighbours: pairs of words that stand side by side. patterns: the
    same pairs with "*" in the place of each content word.
    """

    beginnings: set[str]
    neighbours: set[tuple[str, str]]
    patterns: set[tuple[str, str]]


@cache
def _known() -> _Known:
    beginnings, neighbours = {"your", "you"}, set()
    for text in _texts_of_the_world():
        words = words_of(text)
        beginnings.update(word[:BEGINNING] for word in words)
        neighbours.update(pairwise(words))
    # To the pairs of this world come those of English in general.
    for pair in " ".join(PLAUSIBLE.split()).split("; "):
        neighbours.add(tuple(pair.split()))
    patterns = {(_content_as_star(a), _content_as_star(b)) for a, b in neighbours}
    return _Known(beginnings, neighbours, patterns)


def _texts_of_the_world() -> Iterator[str]:
    """Every phrase from which dialogues are composed, with its placeholders."""
    for forms in vars(phrases).values():
        if isinstance(forms, tuple):
            yield from forms
    for topic in topics():
        yield from (topic.ask, topic.name)
        for fact in topic.advice:
            yield from fact
    for intent in intents():
        yield from (intent.ask, intent.name, *intent.reasons, *intent.better, *intent.steps)


def repeats_itself(text: str) -> bool:
    """True when a sentence of more than two words occurs twice, whatever its capitals."""
    sentences = [sentence.strip().lower() for sentence in sentences_of(text) if len(sentence.split()) > 2]
    return len(set(sentences)) < len(sentences)


def sentences_of(text: str) -> list[str]:
    """The sentences of a text: it is split after full stops, question and exclamation marks."""
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+", text.strip()) if sentence]


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without digits and punctuation."""
    return re.findall(r"[a-z']+", text.lower())
