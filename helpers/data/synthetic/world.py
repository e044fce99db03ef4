"""Dialogues of the embedded world: preference pairs with the truth about them, and the base model's raw corpus.

A tranche is one subset and split of the pairs. Everything is drawn from generators whose seeds name the tranche, so the
same arguments give the same dialogues.
"""

import random
from zlib import crc32

from helpers.core.errors import DataError
from helpers.data.synthetic import flaws, phrases
from helpers.data.synthetic.annotators import crowd, expected_agreement
from helpers.data.synthetic.replies import Reply, Subject, address, compose, join, lead
from helpers.data.synthetic.topics import Intent, Topic, intents, topics

HARMLESS, HELPFUL = "harmless-base", "helpful-base"
LEAKING_ROWS = 400  # train rows that may appear again in the test split
TEST_SHARE = 5  # one first human turn in five belongs to the test split

# How often each kind of reply is drawn: for pairs, for the turns before them, and for the raw corpus. Some subjects
# are hard: writers know little of them, or are tempted by them, so most replies are weak. SFT imitates what is there,
# DPO learns what is preferred; only on hard subjects do the two differ much.
HARD_SHARE = 0.4
PAIR_KINDS = {
    (HELPFUL, "easy"): {
        "good": 0.40, "partial": 0.18, "vague": 0.14, "off_topic": 0.09, "curt": 0.06, "echo": 0.06, "refuse": 0.07,
    },
    (HELPFUL, "hard"): {
        "good": 0.16, "partial": 0.16, "vague": 0.30, "off_topic": 0.12, "curt": 0.08, "echo": 0.09, "refuse": 0.09,
    },
    (HARMLESS, "easy"): {"refuse_reason": 0.34, "refuse_bare": 0.24, "half_comply": 0.18, "comply": 0.24},
    (HARMLESS, "hard"): {"refuse_reason": 0.14, "refuse_bare": 0.14, "half_comply": 0.27, "comply": 0.45},
}  # fmt: skip
HISTORY_KINDS = {
    HELPFUL: {"good": 0.4, "partial": 0.4, "vague": 0.2},
    HARMLESS: {"refuse_reason": 0.35, "refuse_bare": 0.45, "half_comply": 0.2},
}
RAW_KINDS = {
    (HELPFUL, "easy"): {
        "good": 0.28, "partial": 0.18, "vague": 0.24, "off_topic": 0.06, "curt": 0.10, "echo": 0.10, "refuse": 0.04,
    },
    (HELPFUL, "hard"): {
        "good": 0.14, "partial": 0.14, "vague": 0.36, "off_topic": 0.06, "curt": 0.12, "echo": 0.13, "refuse": 0.05,
    },
    (HARMLESS, "easy"): {
        "refuse_reason": 0.14, "refuse_bare": 0.16, "half_comply": 0.20, "comply": 0.38, "vague": 0.08, "curt": 0.04,
    },
    (HARMLESS, "hard"): {
        "refuse_reason": 0.06, "refuse_bare": 0.08, "half_comply": 0.24, "comply": 0.52, "vague": 0.06, "curt": 0.04,
    },
}  # fmt: skip
# Replies that weak policies write, so the reward model must see some: share of the replies in its training pairs.
SPOILED_KINDS = {"garbled": 0.04, "run_on": 0.05, "repeating": 0.06}
# How many exchanges (a human turn and its reply) a dialogue has: number -> share of dialogues.
PAIR_EXCHANGES = {1: 0.46, 2: 0.32, 3: 0.16, 4: 0.06}
RAW_EXCHANGES = {1: 0.62, 2: 0.26, 3: 0.09, 4: 0.03}
# Of the raw corpus: share of prose notes; of its dialogues: those whose last reply is empty, those that run on.
RAW_PROSE, RAW_EMPTY, RAW_RUN_ON = 0.45, 0.05, 0.15
PROSE_ON_TOPICS = 0.75  # of the prose notes; the others are about harmful wishes


def generate_pairs(
    seed: int, subset: str, split: str, n: int, *, flawed: bool = True, spoiled: bool = False
) -> tuple[list[dict], list[dict]]:
    """Preference pairs of a tranche and the truth about each, the same for the same arguments.

    subset: HARMLESS or HELPFUL. split: "train" or "test"; they share topics but no first human turn, leaked rows aside.
    n: number of pairs; a larger one adds pairs and changes none. flawed: whether flaws are planted, see `flaws`.
    spoiled: whether some replies are of SPOILED_KINDS.

    Returns (pairs, truth). A pair is {"chosen", "rejected"}: two transcripts that differ only after the last
    "\\n\\nAssistant:", unless a planted flaw says otherwise. The truth about it is what `_truth` lists, with row (its
    index), flaw (None for none) and copy_of (the row of which it is a copy, or None). Raises DataError for another
    subset or split.
    """
    if subset not in (HARMLESS, HELPFUL) or split not in ("train", "test"):
        raise DataError(f"no tranche {subset!r} {split!r}: choose {HARMLESS!r} or {HELPFUL!r}, 'train' or 'test'")
    rng = random.Random(f"{seed}/{subset}/{split}")
    flaw_rng = random.Random(f"{seed}/{subset}/{split}/flaws")
    # Rows without a flaw, of which copies are made: those of this split so far, and the train split's first ones.
    whole: list[tuple[int, dict, dict]] = []
    leaking = _leaking_rows(seed, subset) if flawed and split == "test" else []
    pairs, truth = [], []
    for row in range(n):
        flaw = flaws.draw(flaw_rng, test=split == "test") if flawed else None
        # A pair is drawn for copies too, so that copies do not change the pairs that come after them.
        pair, facts = _pair(rng, subset, split, spoiled, differs=flaw == "history_differs")
        sources = leaking if flaw == "leaked" else whole
        if flaw in flaws.COPIES and not sources:
            flaw = None
        # Plant the flaw: a copy of another row, or a change to this one.
        of, source_pair, source_facts = flaw_rng.choice(sources) if flaw in flaws.COPIES else (None, pair, facts)
        plant = flaws.spoil if of is None else flaws.copy
        pair, facts = plant(flaw, source_pair, source_facts, flaw_rng)
        pairs.append(pair)
        truth.append({**facts, "row": row, "flaw": flaw, "copy_of": of})
        if flaw is None:
            whole.append((row, pair, truth[-1]))
    return pairs, truth


def raw_corpus(seed: int, n: int) -> list[str]:
    """n documents on which the base model is trained: dialogues in which good replies are a minority, and prose notes.

    The notes are about the same subjects (share RAW_PROSE). Some dialogues end with an empty reply (RAW_EMPTY), some go
    on with a question about another subject (RAW_RUN_ON). Their first human turns are those of the train split.
    """
    rng = random.Random(f"{seed}/raw")
    return [_note(rng) if rng.random() < RAW_PROSE else _raw_dialogue(rng) for _ in range(n)]


def is_hard(subject: Subject) -> bool:
    """Whether most replies about a subject are weak: writers know little of it, or it tempts them."""
    return crc32(subject.ask.encode()) % 100 < 100 * HARD_SHARE


def split_of(first_turn: str) -> str:
    """The split that a first human turn belongs to, "train" or "test", by its hash: the same for every seed."""
    return "train" if crc32(first_turn.encode()) % TEST_SHARE else "test"


def _pair(rng: random.Random, subset: str, split: str, spoiled: bool, differs: bool) -> tuple[dict, dict]:
    """A pair and the truth about it. differs: the rejected transcript has another reply earlier in the dialogue."""
    # The prompt; a history that differs needs an earlier exchange.
    exchanges = _draw(rng, PAIR_EXCHANGES)
    prompt, subject, used = _prompt(rng, subset, split, max(exchanges, 2) if differs else exchanges)
    # Two different replies.
    a = b = _reply(rng, _pair_kinds(rng, subject, spoiled), subject, used)
    while a.text == b.text:
        b = _reply(rng, _pair_kinds(rng, subject, spoiled), subject, used)
    # One annotator chooses between them.
    annotator = rng.randrange(len(crowd()))
    chosen, rejected = (a, b) if rng.random() < crowd()[annotator].prefers(a, b) else (b, a)
    # Two whole transcripts.
    other = _other_history(rng, prompt, subject) if differs else prompt
    pair = {"chosen": f"{prompt} {chosen.text}", "rejected": f"{other} {rejected.text}"}
    return pair, _truth(chosen, rejected, subject, annotator)


def _pair_kinds(rng: random.Random, subject: Subject, spoiled: bool) -> dict:
    """Kinds from which a reply of a pair is drawn, with their weights."""
    if spoiled and rng.random() < sum(SPOILED_KINDS.values()):
        return SPOILED_KINDS
    return PAIR_KINDS[_subset_of(subject), _difficulty(subject)]


def _other_history(rng: random.Random, prompt: str, subject: Subject) -> str:
    """The prompt with another reply, a vague one, in the place of its first assistant turn."""
    first, after = prompt.split("\n\nAssistant: ", 1)
    rest = after.split("\n\n", 1)[1]
    return f"{first}\n\nAssistant: {compose('vague', subject, rng).text}\n\n{rest}"


def _leaking_rows(seed: int, subset: str) -> list[tuple[int, dict, dict]]:
    """The train rows that may be leaked into the test split: the first ones, without a flaw. (row, pair, truth)."""
    pairs, truth = generate_pairs(seed, subset, "train", LEAKING_ROWS)
    return [(facts["row"], pair, facts) for pair, facts in zip(pairs, truth, strict=True) if facts["flaw"] is None]


def _prompt(rng: random.Random, subset: str, split: str, exchanges: int) -> tuple[str, Subject, set[int]]:
    """A dialogue up to its last "\\n\\nAssistant:", the subject of its last human turn, and the facts told about that.

    exchanges: number of human turns. Facts are indices; a later reply does not tell them again.
    """
    # A harmful wish may come after a harmless question, as in HH.
    starts_harmless = subset == HELPFUL or (exchanges > 1 and rng.random() < 0.3)
    subject, used = rng.choice(topics() if starts_harmless else intents()), set()
    text = "\n\nHuman: " + _first_turn(rng, subject, split)
    for turn in range(1, exchanges):
        reply = _reply(rng, HISTORY_KINDS[_subset_of(subject)], subject, used)
        text += f"\n\nAssistant: {reply.text}\n\nHuman: "
        used |= set(reply.facts)
        last = turn == exchanges - 1
        # The human changes to a harmful wish, or to another question, or asks for more of the same.
        if subset == HARMLESS and isinstance(subject, Topic) and last:
            subject, used = rng.choice(intents()), set()
            text += join(rng.choice(phrases.CHANGES), _question(rng, subject))
        elif isinstance(subject, Topic) and (len(used) > 2 or rng.random() < 0.4):
            subject, used = rng.choice([topic for topic in topics() if topic != subject]), set()
            text += join(rng.choice(phrases.CHANGES), _question(rng, subject))
        else:
            text += _follow_up(rng, subject)
    return text + "\n\nAssistant:", subject, used


def _raw_dialogue(rng: random.Random) -> str:
    """A dialogue of the raw corpus."""
    subset = rng.choice((HELPFUL, HARMLESS))
    subject, used = rng.choice(topics() if subset == HELPFUL else intents()), set()
    text = "\n\nHuman: " + _first_turn(rng, subject, "train")
    for _ in range(_draw(rng, RAW_EXCHANGES) - 1):
        reply = _raw_reply(rng, subject, used)
        used |= set(reply.facts)
        text += f"\n\nAssistant: {reply.text}\n\nHuman: {_follow_up(rng, subject)}"
        # After three facts they may be told again, so that some are always left.
        used = used if len(used) < 3 else set()
    # Some dialogues go on with another subject.
    if rng.random() < RAW_RUN_ON:
        reply = _raw_reply(rng, subject, used)
        subject, used = rng.choice(topics() + intents()), set()
        text += f"\n\nAssistant: {reply.text}\n\nHuman: {_question(rng, subject)}"
    # Some end with an empty reply.
    if rng.random() < RAW_EMPTY:
        return text + "\n\nAssistant:"
    return f"{text}\n\nAssistant: {_raw_reply(rng, subject, used).text}"


def _raw_reply(rng: random.Random, subject: Subject, used: set[int]) -> Reply:
    return _reply(rng, RAW_KINDS[_subset_of(subject), _difficulty(subject)], subject, used)


def _note(rng: random.Random) -> str:
    """A prose note about a subject, in the words that replies use for it."""
    # A heading and a sentence on what people want.
    subject = rng.choice(topics() if rng.random() < PROSE_ON_TOPICS else intents())
    head = rng.choice(phrases.NOTE_HEADS).format(name=subject.name)
    purposes = phrases.NOTE_PURPOSES if isinstance(subject, Topic) else phrases.INTENT_PURPOSES
    purpose = rng.choice(purposes).format(ask=address(subject.ask))
    # A harmful wish: why not, and what is better.
    if isinstance(subject, Intent):
        reason, better = rng.choice(subject.reasons), rng.choice(subject.better)
        return join(head, purpose, f"{reason}.", rng.choice(phrases.BETTER_LEADS).format(do=better))
    # An everyday topic: three or four facts.
    facts = rng.sample(subject.advice, rng.choice((3, 4)))
    return join(head, purpose, *lead([rng.choice(fact) for fact in facts], rng))


def _first_turn(rng: random.Random, subject: Subject, split: str) -> str:
    """A first human turn; drawn again until it belongs to the split."""
    while True:
        turn = join(rng.choice(phrases.GREETINGS), _question(rng, subject))
        if split_of(turn) == split:
            return turn


def _follow_up(rng: random.Random, subject: Subject) -> str:
    """A human turn that asks for more on the same topic, or insists on the same harmful wish."""
    forms = phrases.FOLLOW_UPS if isinstance(subject, Topic) else phrases.PUSHES
    return rng.choice(forms).format(ask=subject.ask)


def _question(rng: random.Random, subject: Subject) -> str:
    """A question about a subject and a remark about the human's situation, in either order."""
    context = rng.choice(phrases.NEUTRAL_CONTEXTS if isinstance(subject, Topic) else phrases.HARMFUL_CONTEXTS)
    question = rng.choice(phrases.QUESTIONS).format(ask=subject.ask)
    return join(context, question) if rng.random() < 0.5 else join(question, context)


def _reply(rng: random.Random, kinds: dict, subject: Subject, used: set[int]) -> Reply:
    # The replies of HH were sampled from language models, so the writers here have habits too.
    return compose(_draw(rng, kinds), subject, rng, habits=True, used=used)


def _subset_of(subject: Subject) -> str:
    """The subset whose prompts end with such a subject."""
    return HELPFUL if isinstance(subject, Topic) else HARMLESS


def _difficulty(subject: Subject) -> str:
    return "hard" if is_hard(subject) else "easy"


def _draw(rng: random.Random, weights: dict):
    """One key, drawn with the weights that are the values."""
    return rng.choices(list(weights), list(weights.values()))[0]


def _truth(chosen: Reply, rejected: Reply, subject: Subject, annotator: int) -> dict:
    """What is known about a pair without a flaw.

    Kind and utility of both replies; whether the label names the one of higher utility (label_agrees); who chose
    (annotator) and the probability that two annotators agree on this pair; the subject, and whether it is a hard one.
    """
    return {
        "chosen_kind": chosen.kind,
        "rejected_kind": rejected.kind,
        "chosen_utility": chosen.utility,
        "rejected_utility": rejected.utility,
        "label_agrees": chosen.utility >= rejected.utility,
        "annotator": annotator,
        "annotator_agreement": round(expected_agreement(chosen, rejected), 3),
        "topic": subject.name,
        "hard": is_hard(subject),
    }
