"""Dialogues of the embedded world: preference pairs with known truth, and the raw corpus of the base model."""

import math
import random
from collections import Counter
from zlib import crc32

from ..errors import DataError
from . import phrases
from .replies import Reply, Subject, address, compose, join, lead
from .topics import Intent, Topic, intents, topics

HARMLESS, HELPFUL = "harmless-base", "helpful-base"
TEST_SHARE = 5  # one first turn in so many belongs to the test split

# How often each kind of reply is drawn for a pair, for the turns before it, and for the raw corpus.
PAIR_KINDS = {
    HELPFUL: {"good": 0.33, "partial": 0.18, "vague": 0.16, "off_topic": 0.14, "curt": 0.11, "echo": 0.08},
    HARMLESS: {"refuse_reason": 0.32, "refuse_bare": 0.20, "half_comply": 0.20, "comply": 0.28},
}
HISTORY_KINDS = {
    HELPFUL: {"good": 0.4, "partial": 0.4, "vague": 0.2},
    HARMLESS: {"refuse_reason": 0.4, "refuse_bare": 0.5, "half_comply": 0.1},
}
RAW_KINDS = {
    HELPFUL: {"good": 0.26, "partial": 0.10, "vague": 0.26, "off_topic": 0.16, "curt": 0.12, "echo": 0.10},
    HARMLESS: {
        "refuse_reason": 0.14,
        "refuse_bare": 0.16,
        "half_comply": 0.20,
        "comply": 0.36,
        "vague": 0.08,
        "curt": 0.06,
    },
}
PAIR_EXCHANGES, RAW_EXCHANGES = {1: 0.5, 2: 0.35, 3: 0.15}, {1: 0.65, 2: 0.27, 3: 0.08}
RAW_PROSE, RAW_EMPTY, RAW_RUN_ON = 0.15, 0.05, 0.15

# Bradley-Terry annotators: P(prefer a) = sigmoid((utility a - utility b) / temperature); some are noisier than others.
ANNOTATORS = (0.3, 0.4, 0.5, 0.7, 0.9, 1.2, 1.6, 2.2)


def generate_pairs(seed: int, subset: str, split: str, n: int) -> tuple[list[dict], list[dict]]:
    """Return ``n`` preference pairs of a tranche and the truth about each, the same for the same arguments.

    A pair is {"chosen", "rejected"}: two transcripts that differ after the last "\\n\\nAssistant:". Train and test
    share topics but no first human turn. Asking for more rows adds rows and changes none.
    """
    if subset not in PAIR_KINDS or split not in ("train", "test"):
        raise DataError(f"no tranche {subset!r} {split!r}: choose {HARMLESS!r} or {HELPFUL!r}, 'train' or 'test'")
    rng = random.Random(f"{seed}/{subset}/{split}")
    pairs, truth = [], []
    for row in range(n):
        prompt, subject, used = _prompt(rng, subset, split, _draw(rng, PAIR_EXCHANGES))
        a = b = _reply(rng, PAIR_KINDS[subset], subject, used)
        while a.text == b.text:
            b = _reply(rng, PAIR_KINDS[subset], subject, used)
        annotator = rng.randrange(len(ANNOTATORS))
        prefers_a = rng.random() < 1 / (1 + math.exp((b.utility - a.utility) / ANNOTATORS[annotator]))
        chosen, rejected = (a, b) if prefers_a else (b, a)
        pairs.append({"chosen": f"{prompt} {chosen.text}", "rejected": f"{prompt} {rejected.text}"})
        truth.append(_truth(row, chosen, rejected, subject, annotator))
    return pairs, truth


def raw_corpus(seed: int, n: int) -> list[str]:
    """Return ``n`` documents for the base model: dialogues in which good replies are a minority, and plain notes.

    Replies have habits (favourite remarks), 5 % of the last ones are empty, 15 % run on into another exchange and 15 %
    of the documents are prose about the same subjects. First turns are those of the train split.
    """
    rng = random.Random(f"{seed}/raw")
    return [_note(rng) if rng.random() < RAW_PROSE else _raw_dialogue(rng) for _ in range(n)]


def describe(pairs: list[dict], truth: list[dict]) -> dict:
    """Return counts by kind, label agreement (all, and clear pairs: utilities over 1 apart) and mean word counts."""
    clear = [row["label_agrees"] for row in truth if abs(row["chosen_utility"] - row["rejected_utility"]) > 1]
    replies = {
        side: [pair[side].rsplit("\n\nAssistant:", 1)[1].strip() for pair in pairs] for side in ("chosen", "rejected")
    }
    return {
        "pairs": len(pairs),
        "chosen_kinds": dict(Counter(row["chosen_kind"] for row in truth).most_common()),
        "rejected_kinds": dict(Counter(row["rejected_kind"] for row in truth).most_common()),
        "label_agreement": _mean(row["label_agrees"] for row in truth),
        "clear_pairs": len(clear),
        "clear_label_agreement": _mean(clear),
        "distinct_chosen": len(set(replies["chosen"])) / max(len(pairs), 1),
        "multi_turn": _mean(pair["chosen"].count("\n\nHuman:") > 1 for pair in pairs),
        "transcript_words": _mean(len(pair["chosen"].split()) for pair in pairs),
        "chosen_words": _mean(len(reply.split()) for reply in replies["chosen"]),
        "rejected_words": _mean(len(reply.split()) for reply in replies["rejected"]),
    }


def split_of(first_turn: str) -> str:
    """Return the split that a first human turn belongs to, whatever the seed."""
    return "train" if crc32(first_turn.encode()) % TEST_SHARE else "test"


def _prompt(rng: random.Random, subset: str, split: str, exchanges: int) -> tuple[str, Subject, set[int]]:
    """Write the turns up to the last "\\n\\nAssistant:"; return them, what the human asks about, and the facts told."""
    # A harmful wish may come after a harmless question, as in HH.
    starts_harmless = subset == HELPFUL or (exchanges > 1 and rng.random() < 0.3)
    subject, used = rng.choice(topics() if starts_harmless else intents()), set()
    text = "\n\nHuman: " + _first_turn(rng, subject, split)
    for turn in range(1, exchanges):
        reply = _reply(rng, HISTORY_KINDS[_side(subject)], subject, used)
        text += f"\n\nAssistant: {reply.text}\n\nHuman: "
        used |= set(reply.facts)
        last = turn == exchanges - 1
        if subset == HARMLESS and isinstance(subject, Topic) and last:
            subject, used = rng.choice(intents()), set()
            text += join(rng.choice(phrases.CHANGES), _question(rng, subject))
        elif isinstance(subject, Topic) and (len(used) > 2 or rng.random() < 0.4):
            subject, used = rng.choice([topic for topic in topics() if topic != subject]), set()
            text += join(rng.choice(phrases.CHANGES), _question(rng, subject))
        else:
            text += rng.choice(phrases.FOLLOW_UPS if isinstance(subject, Topic) else phrases.PUSHES).format(
                ask=subject.ask
            )
    return text + "\n\nAssistant:", subject, used


def _raw_dialogue(rng: random.Random) -> str:
    subset = rng.choice((HELPFUL, HARMLESS))
    subject, used = rng.choice(topics() if subset == HELPFUL else intents()), set()
    text = "\n\nHuman: " + _first_turn(rng, subject, "train")
    for _ in range(_draw(rng, RAW_EXCHANGES) - 1):
        reply = _reply(rng, RAW_KINDS[_side(subject)], subject, used, habits=True)
        used |= set(reply.facts)
        follow_ups = phrases.FOLLOW_UPS if isinstance(subject, Topic) else phrases.PUSHES
        text += f"\n\nAssistant: {reply.text}\n\nHuman: {rng.choice(follow_ups).format(ask=subject.ask)}"
        used = used if len(used) < 3 else set()
    if rng.random() < RAW_RUN_ON:
        reply = _reply(rng, RAW_KINDS[_side(subject)], subject, used, habits=True)
        subject, used = rng.choice(topics() + intents()), set()
        text += f"\n\nAssistant: {reply.text}\n\nHuman: {_question(rng, subject)}"
    if rng.random() < RAW_EMPTY:
        return text + "\n\nAssistant:"
    return f"{text}\n\nAssistant: {_reply(rng, RAW_KINDS[_side(subject)], subject, used, habits=True).text}"


def _note(rng: random.Random) -> str:
    """Write a prose note about a subject, in the words that replies use for it."""
    subject = rng.choice(topics() + intents())
    head = rng.choice(phrases.NOTE_HEADS).format(name=subject.name)
    purposes = phrases.NOTE_PURPOSES if isinstance(subject, Topic) else phrases.INTENT_PURPOSES
    purpose = rng.choice(purposes).format(ask=address(subject.ask))
    if isinstance(subject, Intent):
        reason, better = rng.choice(subject.reasons), rng.choice(subject.better)
        return join(head, purpose, f"{reason}.", rng.choice(phrases.BETTER_LEADS).format(do=better))
    facts = rng.sample(subject.advice, rng.choice((2, 3, 4)))
    return join(head, purpose, *lead([rng.choice(fact) for fact in facts], rng))


def _first_turn(rng: random.Random, subject: Subject, split: str) -> str:
    while True:
        turn = join(rng.choice(phrases.GREETINGS), _question(rng, subject))
        if split_of(turn) == split:
            return turn


def _question(rng: random.Random, subject: Subject) -> str:
    context = rng.choice(phrases.NEUTRAL_CONTEXTS if isinstance(subject, Topic) else phrases.HARMFUL_CONTEXTS)
    question = rng.choice(phrases.QUESTIONS).format(ask=subject.ask)
    return join(context, question) if rng.random() < 0.5 else join(question, context)


def _reply(rng: random.Random, kinds: dict, subject: Subject, used: set[int], habits: bool = False) -> Reply:
    return compose(_draw(rng, kinds), subject, rng, habits=habits, used=used)


def _side(subject: Subject) -> str:
    return HELPFUL if isinstance(subject, Topic) else HARMLESS


def _draw(rng: random.Random, weights: dict):
    return rng.choices(list(weights), list(weights.values()))[0]


def _truth(row: int, chosen: Reply, rejected: Reply, subject: Subject, annotator: int) -> dict:
    return {
        "row": row,
        "chosen_kind": chosen.kind,
        "rejected_kind": rejected.kind,
        "chosen_utility": chosen.utility,
        "rejected_utility": rejected.utility,
        "label_agrees": chosen.utility >= rejected.utility,
        "topic": subject.name,
        "annotator": annotator,
    }


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")
