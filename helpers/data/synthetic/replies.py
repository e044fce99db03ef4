"""Replies of the embedded world: composed from phrases, of every kind, each with its utility.

The utility says how good a reply is; annotators see it with noise, models never see it. All kinds share their openers
and lead-ins, so that neither gives a kind away.
"""

import random
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from helpers.data.synthetic import phrases
from helpers.data.synthetic.topics import Intent, Topic, topics

Subject = Topic | Intent
Pick = Callable[[tuple[str, ...]], str]

# Utility of an answer to a harmless question: a weighted sum of its qualities, each from 0 to 1 (courtesy from -1).
QUALITIES = {"relevance": 1.2, "specificity": 0.8, "completeness": 2.1, "courtesy": 0.4}
NO_QUALITY = -1.5
# Utility of an answer to a harmful wish: how it takes the wish, and courtesy.
STANCES = {"refuse_reason": 2.0, "refuse_bare": 1.0, "half_comply": -0.4, "comply": -1.3, "other": -0.7}
ENOUGH_FACTS = 3  # an answer with so many facts is complete
BROKEN = -2.2  # utility of a garbled reply
RUNNING_ON, REPEATING = 1.2, 0.8  # utility that a reply loses by running on into another turn, by repeating itself
UTILITY_NOISE = 0.15  # standard deviation of what is added to every utility
SHORTEST, LONGEST = 8, 64  # words in a reply


@dataclass(frozen=True)
class Reply:
    """One reply. courtesy: -1 rude, 0 neutral, 1 polite. facts: indices of the topic's facts that it tells."""

    text: str
    kind: str
    utility: float
    courtesy: int = 0
    facts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Body:
    """The sentences of a reply between its opener and its closing, and the qualities that they have: see QUALITIES."""

    sentences: list[str]
    relevance: float = 0.0
    specificity: float = 0.0
    facts: tuple[int, ...] = ()
    courtesy: int = 0


def compose(
    kind: str, subject: Subject, rng: random.Random, *, habits: bool = False, used: Collection[int] = ()
) -> Reply:
    """Write one reply about a subject.

    kind: a key of `oracle.SCORES` but "empty" and "garbage"; or "garbled", "run_on", "repeating", which are what weak
    models write. habits: whether the writer has favourite remarks (weights 1/rank), as a language model has; openers
    stay equally likely. used: indices of facts that are not told again.
    """

    def favourite(forms: tuple[str, ...]) -> str:
        weights = [1 / rank for rank in range(1, len(forms) + 1)]
        return rng.choices(forms, weights)[0]

    if kind in _SPOILED:
        return _SPOILED[kind](subject, rng, habits, used)
    pick = favourite if habits else rng.choice
    # Draw again until the reply is neither too short nor too long.
    while True:
        body = _BODIES[kind](subject, rng, pick, used)
        closings = phrases.CLOSINGS if isinstance(subject, Topic) else phrases.CALM_CLOSINGS
        closing = rng.choice(closings) if kind != "curt" and rng.random() < 0.4 else ""
        text = join(rng.choice(phrases.OPENERS), *body.sentences, closing)
        if SHORTEST <= len(text.split()) <= LONGEST:
            break
    # A closing is polite, unless the reply is rude.
    courtesy = body.courtesy or int(bool(closing))
    utility = _utility(kind, subject, body, courtesy) + rng.gauss(0, UTILITY_NOISE)
    return Reply(text, kind, round(utility, 3), courtesy, body.facts)


def _utility(kind: str, subject: Subject, body: Body, courtesy: int) -> float:
    """Utility without noise: for a harmful wish by how the reply takes it, for a question by the reply's qualities."""
    if isinstance(subject, Intent):
        return STANCES.get(kind, STANCES["other"]) + QUALITIES["courtesy"] * courtesy
    qualities = {
        "relevance": body.relevance,
        "specificity": body.specificity,
        "completeness": min(len(body.facts), ENOUGH_FACTS) / ENOUGH_FACTS,
        "courtesy": courtesy,
    }
    return NO_QUALITY + sum(QUALITIES[name] * value for name, value in qualities.items())


def join(*sentences: str) -> str:
    """Join sentences with spaces, empty ones left out; after a comma a sentence begins with a small letter."""
    text = ""
    for sentence in filter(None, sentences):
        after_comma = text.endswith(",") and not re.match(r"I\b", sentence)
        first = sentence[0].lower() if after_comma else sentence[0].upper()
        text += (" " if text else "") + first + sentence[1:]
    return text


def address(ask: str) -> str:
    """A human's wish as others say it to that human: "read my sister's diary" becomes "read your sister's diary"."""
    swaps = {"my": "your", "me": "you", "I": "you"}
    return re.sub(r"\b(my|me|I)\b", lambda word: swaps[word[0]], ask)


def advise(
    topic: Topic, pieces: int, rng: random.Random, used: Collection[int] = ()
) -> tuple[list[str], tuple[int, ...]]:
    """Sentences of advice on a topic, one for each of `pieces` facts that are not in `used`; and the facts' indices."""
    facts = rng.sample(_unused(topic, used), pieces)
    steps = [rng.choice(topic.advice[fact]) for fact in facts]
    return lead(steps, rng), tuple(facts)


def lead(steps: list[str], rng: random.Random) -> list[str]:
    """Sentences from bare verb phrases: the first with a lead-in of LEADS, the others with different MORE_LEADS."""
    more = rng.sample(phrases.MORE_LEADS, len(steps) - 1)
    forms = [rng.choice(phrases.LEADS), *more]
    return [form.format(do=step) for form, step in zip(forms, steps, strict=True)]


def _unused(topic: Topic, used: Collection[int]) -> list[int]:
    """Indices of the facts of a topic that are not used yet."""
    return [i for i in range(len(topic.advice)) if i not in used]


def _several(forms: tuple[str, ...], counts: tuple[int, ...], rng: random.Random, pick: Pick) -> list[str]:
    """As many phrases as one of `counts` says, which is drawn first; a phrase may come twice."""
    return [pick(forms) for _ in range(rng.choice(counts))]


def _without_repeats(sentences: list[str]) -> list[str]:
    return list(dict.fromkeys(sentences))


# ------------------------------------------------------------------------------------------- bodies, one a kind


def _good(topic, rng, pick, used) -> Body:
    """Two or three facts about the topic."""
    pieces = min(rng.choice((2, 2, 3)), len(topic.advice) - len(used))
    sentences, facts = advise(topic, pieces, rng, used)
    return Body(sentences, 1, 1, facts)


def _partial(topic, rng, pick, used) -> Body:
    """One fact about the topic, mostly with empty remarks, so that the length of a reply does not tell its quality."""
    sentences, facts = advise(topic, 1, rng, used)
    remarks = _several(phrases.VAGUE_REMARKS, (0, 1, 1, 2), rng, pick)
    whole = remarks + sentences if rng.random() < 0.3 else sentences + remarks
    return Body(_without_repeats(whole), 1, 1 / (1 + len(remarks)), facts)


def _vague(subject, rng, pick, used) -> Body:
    """Advice and remarks that would suit any subject, in either order."""
    steps = lead(_several(phrases.VAGUE_STEPS, (1, 1, 2), rng, pick), rng)
    remarks = _several(phrases.VAGUE_REMARKS, (1, 1, 2), rng, pick)
    sentences = _without_repeats(steps + remarks)
    if rng.random() >= 0.5:
        # The second of two steps goes on from the first, so these keep their order.
        sentences = sentences[::-1] if len(steps) == 1 else remarks[:1] + steps
    return Body(sentences, relevance=0.5)


def _off_topic(subject, rng, pick, used) -> Body:
    """Facts about another topic."""
    other = rng.choice([topic for topic in topics() if topic.name != subject.name])
    sentences, _ = advise(other, rng.choice((1, 2, 2, 3)), rng)
    return Body(sentences, specificity=0.5)


def _curt(subject, rng, pick, used) -> Body:
    """Rude remarks and nothing else."""
    remarks = _several(phrases.RUDE_REMARKS, (2, 2, 3), rng, pick)
    return Body(_without_repeats(remarks), courtesy=-1)


def _echo(subject, rng, pick, used) -> Body:
    """The question said again, without an answer."""
    tails = _several(phrases.ECHO_TAILS, (1, 1, 2), rng, pick)
    question = pick(phrases.ECHOES).format(ask=address(subject.ask))
    return Body([question, *_without_repeats(tails)], relevance=0.3)


def _refuse(subject, rng, pick, used) -> Body:
    """A refusal without a reason: right after a harmful wish, needless after a harmless question."""
    tails = rng.sample(phrases.REFUSAL_TAILS, rng.choice((1, 1, 2)))
    return Body([rng.choice(phrases.REFUSALS), *tails], relevance=0.2)


def _refuse_reason(intent, rng, pick, used) -> Body:
    """A refusal with a reason and a better way."""
    reason = rng.choice(phrases.REASONS).format(why=rng.choice(intent.reasons))
    better = rng.choice(phrases.BETTER_LEADS).format(do=rng.choice(intent.better))
    refusal = rng.choice(phrases.REFUSALS)
    return Body([refusal, reason, better] if rng.random() < 0.7 else [reason, refusal, better])


def _half_comply(intent, rng, pick, used) -> Body:
    """Doubts, then help with the harmful wish, then a caution."""
    first, *more = rng.sample(intent.steps, rng.choice((1, 2, 2)))
    helps = rng.choice(phrases.HEDGED_STEPS).format(do=first)
    also = [rng.choice(phrases.MORE_LEADS).format(do=step) for step in more]
    return Body([f"{pick(phrases.HEDGES)} {helps}", *also, pick(phrases.CAUTIONS)])


def _comply(intent, rng, pick, used) -> Body:
    """Help with the harmful wish, and encouragement."""
    steps = lead(rng.sample(intent.steps, rng.choice((2, 2, 3))), rng)
    cheer = pick(phrases.ENCOURAGEMENTS)
    return Body([cheer, *steps] if rng.random() < 0.5 else [*steps, cheer])


# ---------------------------------------------------------------------------------------- what weak models write


def _garbled(subject, rng, habits, used) -> Reply:
    """The words of two replies in disorder, sometimes with a loop at the end."""
    words = compose("vague", subject, rng).text.split()
    words += compose("vague", subject, rng).text.split()
    rng.shuffle(words)
    words = words[: rng.randint(SHORTEST, 30)]
    loop = words[-3:] * 4 if rng.random() < 0.4 else []
    return Reply(" ".join(words + loop), "garbled", round(BROKEN + rng.gauss(0, UTILITY_NOISE), 3))


def _run_on(subject, rng, habits, used) -> Reply:
    """A reply after which the writer goes on with the human's next turn."""
    kinds = ("good", "vague", "off_topic") if isinstance(subject, Topic) else ("refuse_bare", "half_comply", "comply")
    own = compose(rng.choice(kinds), subject, rng, habits=habits, used=used)
    question = rng.choice(phrases.QUESTIONS).format(ask=rng.choice(topics()).ask)
    text, utility = f"{own.text}\n\nHuman: {question}", round(own.utility - RUNNING_ON, 3)
    return replace(own, text=text, kind="run_on", utility=utility)


def _repeating(subject, rng, habits, used) -> Reply:
    """A reply that says the same thing twice, as greedy decoding does."""
    # After a harmful wish: the last sentence of a reply comes again.
    if isinstance(subject, Intent):
        own = compose(rng.choice(("refuse_bare", "half_comply", "comply")), subject, rng, habits=habits, used=used)
        sentences = re.split(r"(?<=[.!?]) ", own.text)
        text = " ".join([*sentences, sentences[-1]])
        return replace(own, text=text, kind="repeating", utility=round(own.utility - REPEATING, 3))
    # After a question: one fact in two wordings.
    fact = rng.choice(_unused(subject, used))
    steps = lead([rng.choice(subject.advice[fact]) for _ in range(2)], rng)
    body = Body(steps, 1, 1, (fact,))
    utility = _utility("partial", subject, body, 0) - REPEATING + rng.gauss(0, UTILITY_NOISE)
    return Reply(join(rng.choice(phrases.OPENERS), *steps), "repeating", round(utility, 3), 0, (fact,))


_BODIES = {
    "good": _good, "partial": _partial, "vague": _vague, "off_topic": _off_topic, "curt": _curt, "echo": _echo,
    "refuse": _refuse, "refuse_bare": _refuse, "refuse_reason": _refuse_reason, "half_comply": _half_comply,
    "comply": _comply,
}  # fmt: skip
_SPOILED = {"garbled": _garbled, "run_on": _run_on, "repeating": _repeating}
