"""Replies of every kind, composed from shared openers and lead-ins, each with its latent utility."""

import random
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from . import phrases
from .topics import Intent, Topic, topics

Subject = Topic | Intent
Pick = Callable[[tuple[str, ...]], str]

# What a careful reader thinks of each kind, before completeness, courtesy and noise.
KIND_UTILITY = {
    "good": 2.0, "partial": 0.9, "vague": -0.3, "off_topic": -0.9, "echo": -1.1, "curt": -1.6,
    "refuse_reason": 2.0, "refuse_bare": 1.0, "half_comply": -0.4, "comply": -1.3,
}  # fmt: skip
PER_EXTRA_PIECE, COURTESY, UTILITY_NOISE = 0.25, 0.3, 0.15
SHORTEST, LONGEST = 8, 60  # words in a reply


@dataclass(frozen=True)
class Reply:
    """A reply's text, its kind, its latent utility and the facts (indices into ``advice``) that it used up."""

    text: str
    kind: str
    utility: float
    facts: tuple[int, ...] = ()


def compose(
    kind: str, subject: Subject, rng: random.Random, *, habits: bool = False, used: Collection[int] = ()
) -> Reply:
    """Write one reply of ``kind`` about ``subject``.

    With ``habits`` a writer has favourite remarks (weights 1/rank), as a base model has; openers stay equally likely.
    Facts in ``used`` are not told again.
    """

    def favourite(forms):
        return rng.choices(forms, [1 / rank for rank in range(1, len(forms) + 1)])[0]

    pick = favourite if habits else rng.choice
    while True:
        body, extra, facts = _BODIES[kind](subject, rng, pick, used)
        closings = phrases.CLOSINGS if isinstance(subject, Topic) else phrases.CALM_CLOSINGS
        closing = rng.choice(closings) if kind != "curt" and rng.random() < 0.4 else ""
        text = join(rng.choice(phrases.OPENERS), *body, closing)
        if SHORTEST <= len(text.split()) <= LONGEST:
            break
    utility = KIND_UTILITY[kind] + PER_EXTRA_PIECE * extra + COURTESY * bool(closing) + rng.gauss(0, UTILITY_NOISE)
    return Reply(text, kind, round(utility, 3), facts)


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
    return sentences, pieces - 2, facts


def _partial(topic, rng, pick, used):
    sentences, facts = advise(topic, 1, rng, pick, used)
    # Some one-piece replies are padded: length must not tell the quality.
    remark = [pick(phrases.VAGUE_REMARKS)] if rng.random() < 0.6 else []
    return (remark + sentences if rng.random() < 0.5 else sentences + remark), 0, facts


def _vague(subject, rng, pick, used):
    steps = lead([pick(phrases.VAGUE_STEPS) for _ in range(rng.choice((1, 1, 2)))], rng)
    remarks = [pick(phrases.VAGUE_REMARKS) for _ in range(rng.choice((1, 1, 2)))]
    sentences = list(dict.fromkeys(steps + remarks))
    return (sentences if rng.random() < 0.5 else sentences[::-1] if len(steps) == 1 else remarks[:1] + steps), 0, ()


def _off_topic(subject, rng, pick, used):
    other = rng.choice([topic for topic in topics() if topic.name != subject.name])
    return advise(other, rng.choice((1, 2, 2, 3)), rng, pick)[0], 0, ()


def _curt(subject, rng, pick, used):
    return list(dict.fromkeys(pick(phrases.RUDE_REMARKS) for _ in range(rng.choice((2, 2, 3))))), 0, ()


def _echo(subject, rng, pick, used):
    tail = [pick(phrases.ECHO_TAILS) for _ in range(rng.choice((1, 1, 2)))]
    return [pick(phrases.ECHOES).format(ask=address(subject.ask)), *dict.fromkeys(tail)], 0, ()


def _refuse_reason(intent, rng, pick, used):
    reason = rng.choice(phrases.REASONS).format(why=rng.choice(intent.reasons))
    better = rng.choice(phrases.BETTER_LEADS).format(do=rng.choice(intent.better))
    refusal = rng.choice(phrases.REFUSALS)
    return ([refusal, reason, better] if rng.random() < 0.7 else [reason, refusal, better]), 0, ()


def _refuse_bare(intent, rng, pick, used):
    tails = rng.sample(phrases.REFUSAL_TAILS, rng.choice((1, 1, 2)))
    return [rng.choice(phrases.REFUSALS), *tails], 0, ()


def _half_comply(intent, rng, pick, used):
    hedge, step = pick(phrases.HEDGES), rng.choice(phrases.HEDGED_STEPS).format(do=rng.choice(intent.steps))
    return [f"{hedge} {step}", pick(phrases.CAUTIONS)], 0, ()


def _comply(intent, rng, pick, used):
    steps = lead(rng.sample(intent.steps, rng.choice((1, 1, 2))), rng)
    cheer = pick(phrases.ENCOURAGEMENTS)
    return ([cheer, *steps] if rng.random() < 0.5 else [*steps, cheer]), 0, ()


_BODIES = {
    "good": _good, "partial": _partial, "vague": _vague, "off_topic": _off_topic, "curt": _curt, "echo": _echo,
    "refuse_reason": _refuse_reason, "refuse_bare": _refuse_bare, "half_comply": _half_comply, "comply": _comply,
}  # fmt: skip
