"""Replies of every kind, composed from shared openers and lead-ins, each with its latent utility."""

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
BROKEN = -2.2  # utility of a garbled reply; those that run on or repeat themselves lose the following
RUNNING_ON, REPEATING = 1.2, 0.8
UTILITY_NOISE = 0.15
SHORTEST, LONGEST = 8, 64  # words in a reply


@dataclass(frozen=True)
class Reply:
    """A reply's text, its kind, its latent utility, its courtesy (-1 rude, 0, 1) and the facts (indices) it told."""

    text: str
    kind: str
    utility: float
    courtesy: int = 0
    facts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Body:
    """The sentences between opener and closing, and the qualities they have: see QUALITIES."""

    sentences: list[str]
    relevance: float = 0.0
    specificity: float = 0.0
    facts: tuple[int, ...] = ()
    courtesy: int = 0


def compose(
    kind: str, subject: Subject, rng: random.Random, *, habits: bool = False, used: Collection[int] = ()
) -> Reply:
    """Write one reply of ``kind`` about ``subject``.

    With ``habits`` a writer has favourite remarks (weights 1/rank), as a language model has; openers stay equally
    likely. Facts in ``used`` are not told again. The kinds "garbled", "run_on" and "repeating" are what weak models
    write.
    """

    def favourite(forms):
        return rng.choices(forms, [1 / rank for rank in range(1, len(forms) + 1)])[0]

    if kind in _SPOILED:
        return _SPOILED[kind](subject, rng, habits, used)
    pick = favourite if habits else rng.choice
    while True:
        body = _BODIES[kind](subject, rng, pick, used)
        closings = phrases.CLOSINGS if isinstance(subject, Topic) else phrases.CALM_CLOSINGS
        closing = rng.choice(closings) if kind != "curt" and rng.random() < 0.4 else ""
        text = join(rng.choice(phrases.OPENERS), *body.sentences, closing)
        if SHORTEST <= len(text.split()) <= LONGEST:
            break
    courtesy = body.courtesy or int(bool(closing))
    utility = _utility(kind, subject, body, courtesy) + rng.gauss(0, UTILITY_NOISE)
    return Reply(text, kind, round(utility, 3), courtesy, body.facts)


def _utility(kind: str, subject: Subject, body: Body, courtesy: int) -> float:
    if isinstance(subject, Intent):
        return STANCES.get(kind, STANCES["other"]) + QUALITIES["courtesy"] * courtesy
    complete = min(len(body.facts), ENOUGH_FACTS) / ENOUGH_FACTS
    qualities = {"relevance": body.relevance, "specificity": body.specificity, "completeness": complete}
    return NO_QUALITY + sum(QUALITIES[name] * value for name, value in (qualities | {"courtesy": courtesy}).items())


def join(*sentences: str) -> str:
    """Join sentences with spaces; each begins with a capital letter unless the words before it end in a comma."""
    text = ""
    for sentence in filter(None, sentences):
        runs_on = text.endswith(",") and not re.match(r"I\b", sentence)
        first = sentence[0].lower() if runs_on else sentence[0].upper()
        text += (" " if text else "") + first + sentence[1:]
    return text


def address(ask: str) -> str:
    """Turn the human's wish towards the human: "read my sister's diary" becomes "read your sister's diary"."""
    swaps = {"my": "your", "me": "you", "I": "you"}
    return re.sub(r"\b(my|me|I)\b", lambda word: swaps[word[0]], ask)


def advise(topic: Topic, pieces: int, rng: random.Random, pick: Pick, used: Collection[int] = ()):
    """Return ``pieces`` sentences of advice on ``topic``, none from ``used``, and the facts' indices."""
    facts = rng.sample([i for i in range(len(topic.advice)) if i not in used], pieces)
    steps = [rng.choice(topic.advice[fact]) for fact in facts]
    return lead(steps, rng), tuple(facts)


def lead(steps: list[str], rng: random.Random) -> list[str]:
    """Put each bare verb phrase behind a lead-in: one for the first sentence, others for the rest."""
    more = rng.sample(phrases.MORE_LEADS, len(steps) - 1)
    return [form.format(do=step) for form, step in zip([rng.choice(phrases.LEADS), *more], steps, strict=True)]


def _good(topic, rng, pick, used):
    pieces = min(rng.choice((2, 2, 3)), len(topic.advice) - len(used))
    sentences, facts = advise(topic, pieces, rng, pick, used)
    return Body(sentences, 1, 1, facts)


def _partial(topic, rng, pick, used):
    sentences, facts = advise(topic, 1, rng, pick, used)
    # Most one-piece replies are padded: length must not tell the quality.
    remarks = [pick(phrases.VAGUE_REMARKS) for _ in range(rng.choice((0, 1, 1, 2)))]
    whole = remarks + sentences if rng.random() < 0.3 else sentences + remarks
    return Body(list(dict.fromkeys(whole)), 1, 1 / (1 + len(remarks)), facts)


def _vague(subject, rng, pick, used):
    steps = lead([pick(phrases.VAGUE_STEPS) for _ in range(rng.choice((1, 1, 2)))], rng)
    remarks = [pick(phrases.VAGUE_REMARKS) for _ in range(rng.choice((1, 1, 2)))]
    sentences = list(dict.fromkeys(steps + remarks))
    turned = sentences if rng.random() < 0.5 else sentences[::-1] if len(steps) == 1 else remarks[:1] + steps
    return Body(turned, relevance=0.5)


def _off_topic(subject, rng, pick, used):
    other = rng.choice([topic for topic in topics() if topic.name != subject.name])
    return Body(advise(other, rng.choice((1, 2, 2, 3)), rng, pick)[0], specificity=0.5)


def _curt(subject, rng, pick, used):
    remarks = (pick(phrases.RUDE_REMARKS) for _ in range(rng.choice((2, 2, 3))))
    return Body(list(dict.fromkeys(remarks)), courtesy=-1)


def _echo(subject, rng, pick, used):
    tail = [pick(phrases.ECHO_TAILS) for _ in range(rng.choice((1, 1, 2)))]
    return Body([pick(phrases.ECHOES).format(ask=address(subject.ask)), *dict.fromkeys(tail)], relevance=0.3)


def _refuse(subject, rng, pick, used):
    """A refusal without a reason: bare after a harmful wish, needless after a harmless question."""
    tails = rng.sample(phrases.REFUSAL_TAILS, rng.choice((1, 1, 2)))
    return Body([rng.choice(phrases.REFUSALS), *tails], relevance=0.2)


def _refuse_reason(intent, rng, pick, used):
    reason = rng.choice(phrases.REASONS).format(why=rng.choice(intent.reasons))
    better = rng.choice(phrases.BETTER_LEADS).format(do=rng.choice(intent.better))
    refusal = rng.choice(phrases.REFUSALS)
    return Body([refusal, reason, better] if rng.random() < 0.7 else [reason, refusal, better])


def _half_comply(intent, rng, pick, used):
    first, *more = rng.sample(intent.steps, rng.choice((1, 2, 2)))
    helps = rng.choice(phrases.HEDGED_STEPS).format(do=first)
    also = [rng.choice(phrases.MORE_LEADS).format(do=step) for step in more]
    return Body([f"{pick(phrases.HEDGES)} {helps}", *also, pick(phrases.CAUTIONS)])


def _comply(intent, rng, pick, used):
    steps = lead(rng.sample(intent.steps, rng.choice((2, 2, 3))), rng)
    cheer = pick(phrases.ENCOURAGEMENTS)
    return Body([cheer, *steps] if rng.random() < 0.5 else [*steps, cheer])


def _garbled(subject, rng, habits, used) -> Reply:
    """Words of several replies in disorder, sometimes in a loop."""
    words = [word for _ in range(2) for word in compose("vague", subject, rng).text.split()]
    rng.shuffle(words)
    words = words[: rng.randint(SHORTEST, 30)]
    loop = words[-3:] * 4 if rng.random() < 0.4 else []
    return Reply(" ".join(words + loop), "garbled", round(BROKEN + rng.gauss(0, UTILITY_NOISE), 3))


def _run_on(subject, rng, habits, used) -> Reply:
    """A reply that goes on with a human turn of its own."""
    kinds = ("good", "vague", "off_topic") if isinstance(subject, Topic) else ("refuse_bare", "half_comply", "comply")
    own = compose(rng.choice(kinds), subject, rng, habits=habits, used=used)
    question = rng.choice(phrases.QUESTIONS).format(ask=rng.choice(topics()).ask)
    text, utility = f"{own.text}\n\nHuman: {question}", round(own.utility - RUNNING_ON, 3)
    return replace(own, text=text, kind="run_on", utility=utility)


def _repeating(subject, rng, habits, used) -> Reply:
    """A reply that says the same thing twice, as greedy decoding does."""
    if isinstance(subject, Intent):
        own = compose(rng.choice(("refuse_bare", "half_comply", "comply")), subject, rng, habits=habits, used=used)
        sentences = re.split(r"(?<=[.!?]) ", own.text)
        text = " ".join([*sentences, sentences[-1]])
        return replace(own, text=text, kind="repeating", utility=round(own.utility - REPEATING, 3))
    fact = rng.choice([i for i in range(len(subject.advice)) if i not in used])
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
