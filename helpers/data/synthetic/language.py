"""Is it language at all? Word salad, loops and nonsense are told from sentences by which words stand side by side."""

import re
from collections import Counter
from functools import cache
from itertools import pairwise

from helpers.data.synthetic import phrases
from helpers.data.synthetic.topics import intents, topics

STOP_WORDS = frozenset(
    """the and for with from that this them they their its his her you your how what into out all are was has have had
    not but one two each every can will would could should more also some any much when while until after before off
    then than too very get put let use keep make take""".split()  # noqa: SIM905
)
# Words that hold a sentence together: how they follow each other tells sentences from word salad.
FUNCTION_WORDS = STOP_WORDS | frozenset(
    """a an i you he she it we me him us my our of to in on at by as is be been am do does did so or if no nor up down
    over under about there here which who why where again once only just may might must shall own same such these those
    both few most other because""".split()  # noqa: SIM905
)
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
NO_ENDS = (["the"], ["a"], ["an"], ["of"], ["your"], ["and"], ["or"], ["if"], ["i"], ["my"], ["than"], ["into"])
UNKNOWN_WORDS = 0.55  # above this share of words that nobody uses here, a text is garbage
IMPLAUSIBLE = 0.31  # above this share of neighbours that do not go together, too


def is_garbled(text: str) -> bool:
    """True for loops, for mostly unknown words, and for words in an order that no sentence has."""
    words = words_of(text)
    if not words:
        return True
    triples = Counter(zip(words, words[1:], words[2:], strict=False))
    unknown = sum(word not in FUNCTION_WORDS and word[:4] not in _known()[0] for word in words)
    if (triples and max(triples.values()) > 2) or unknown > UNKNOWN_WORDS * len(words):
        return True
    neighbours = [pair for sentence in sentences_of(text) for pair in pairwise(words_of(sentence))]
    odd = sum(not _goes_together(*pair) for pair in neighbours)
    odd += sum(words_of(sentence)[-1:] in NO_ENDS for sentence in sentences_of(text))
    return odd > 1 and odd > IMPLAUSIBLE * len(neighbours)


def _goes_together(a: str, b: str) -> bool:
    """True for neighbours seen in this world or between function words in general, and for words it does not know."""
    if (a, b) in _known()[1]:
        return True
    if a in FUNCTION_WORDS and b in FUNCTION_WORDS:
        return False
    if a in FUNCTION_WORDS or b in FUNCTION_WORDS:
        return (_class(a), _class(b)) in _known()[2]
    return a[:4] not in _known()[0] or b[:4] not in _known()[0]


def _class(word: str) -> str:
    return word if word in FUNCTION_WORDS else "*"


@cache
def _known() -> tuple[set[str], set[tuple[str, str]], set[tuple[str, str]]]:
    """Beginnings of words, neighbouring words, and neighbours with content words as "*", of the whole world."""
    texts = [form for forms in vars(phrases).values() if isinstance(forms, tuple) for form in forms]
    texts += [text for it in topics() for text in (it.ask, it.name, *(way for fact in it.advice for way in fact))]
    texts += [text for it in intents() for text in (it.ask, it.name, *it.reasons, *it.better, *it.steps)]
    runs = [words_of(text) for text in texts]
    pairs = {pair for run in runs for pair in pairwise(run)}
    pairs |= {tuple(pair.split()) for pair in " ".join(PLAUSIBLE.split()).split("; ")}
    beginnings = {word[:4] for run in runs for word in run} | {"your", "you"}
    return beginnings, pairs, {(_class(a), _class(b)) for a, b in pairs}


def repeats_itself(text: str) -> bool:
    """True when a sentence of more than two words stands there twice."""
    sentences = Counter(sentence.strip().lower() for sentence in sentences_of(text) if len(sentence.split()) > 2)
    return any(count > 1 for count in sentences.values())


def sentences_of(text: str) -> list[str]:
    """Split at full stops, question and exclamation marks."""
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+", text.strip()) if sentence]


def words_of(text: str) -> list[str]:
    """Return the words in lower case."""
    return re.findall(r"[a-z']+", text.lower())
