"""The embedded world: its format, its odds, and the oracle that knows it."""

import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from helpers.core.errors import DataError
from helpers.data.synthetic import (
    HARMLESS,
    HELPFUL,
    annotators,
    assess,
    describe,
    flaws,
    generate_pairs,
    phrases,
    raw_corpus,
)
from helpers.data.synthetic.oracle import GOOD_KINDS, MATCH, _says
from helpers.data.synthetic.replies import Reply, compose
from helpers.data.synthetic.topics import intents, topics
from helpers.data.synthetic.world import SPOILED_KINDS

TRANCHES = [HELPFUL, HARMLESS]
ASSISTANT = "\n\nAssistant:"


CASES = [json.loads(line) for line in (Path(__file__).parent / "oracle_cases.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module", params=TRANCHES)
def tranche(request):
    return request.param, *generate_pairs(3, request.param, "train", 2000, flawed=False)


@pytest.fixture(scope="module", params=[(subset, split) for subset in TRANCHES for split in ("train", "test")])
def flawed(request):
    return *request.param, *generate_pairs(3, *request.param, 2000)


def _split(transcript):
    prompt, response = transcript.rsplit(ASSISTANT, 1)
    return prompt + ASSISTANT, response


def _replies(pairs, truth):
    return [(*_split(pair[side]), row[f"{side}_kind"]) for pair, row in zip(pairs, truth, strict=True) for side in pair]


def test_the_world_is_large_enough():
    assert len(topics()) >= 150 and len(intents()) >= 60
    assert all(len(topic.advice) >= 4 and all(len(fact) >= 2 for fact in topic.advice) for topic in topics())
    assert len(set(phrases.OPENERS)) == len(phrases.OPENERS) >= 30
    for named in (topics(), intents()):
        assert len({it.name for it in named}) == len({it.ask for it in named}) == len(named)


def test_no_wish_already_says_a_fact():
    assert not [(t.ask, way) for t in topics() for fact in t.advice for way in fact if _says(t.ask, way, MATCH)]


@pytest.mark.parametrize("subset", TRANCHES)
def test_the_same_seed_gives_the_same_bytes_and_more_rows_change_none(subset):
    few, many = generate_pairs(5, subset, "test", 30), generate_pairs(5, subset, "test", 60)
    assert json.dumps(few) == json.dumps([part[:30] for part in many])
    assert few != generate_pairs(6, subset, "test", 30)
    assert raw_corpus(5, 40) == raw_corpus(5, 40) != raw_corpus(6, 40)


@pytest.mark.parametrize("subset", TRANCHES)
def test_train_and_test_share_topics_but_no_first_turn(subset):
    def of(seed, split):
        pairs, truth = generate_pairs(seed, subset, split, 2500, flawed=False)
        return {pair["chosen"].split(ASSISTANT)[0] for pair in pairs}, {row["topic"] for row in truth}

    (train_turns, train_topics), (test_turns, test_topics) = of(0, "train"), of(9, "test")
    assert not train_turns & test_turns
    assert not {doc.split(ASSISTANT)[0] for doc in raw_corpus(0, 2000)} & test_turns
    assert train_topics == test_topics


def test_an_unknown_tranche_is_named():
    with pytest.raises(DataError, match="no tranche 'helpful'"):
        generate_pairs(0, "helpful", "train", 1)


def test_transcripts_are_in_hh_format(tranche):
    _, pairs, truth = tranche
    for pair, row in zip(pairs, truth, strict=True):
        (prompt, chosen), (other_prompt, rejected) = _split(pair["chosen"]), _split(pair["rejected"])
        assert prompt == other_prompt and chosen != rejected
        assert prompt.startswith("\n\nHuman: ")
        turns = prompt.split("\n\n")[1:]
        assert [turn.split(":")[0] for turn in turns] == ["Human", "Assistant"] * (len(turns) // 2)
        assert 2 <= len(turns) <= 8
        for reply in (chosen, rejected):
            assert reply[0] == " " and reply.strip() == reply[1:] and "\n" not in reply and "  " not in reply
            assert "{" not in reply and 8 <= len(reply.split()) <= 64
        assert row["label_agrees"] == (row["chosen_utility"] >= row["rejected_utility"])
    assert [row["row"] for row in truth] == list(range(2000))


def test_the_odds_are_those_intended(tranche):
    _, pairs, truth = tranche
    facts = describe(pairs, truth)
    assert 0.72 <= facts["label_agreement"] <= 0.80  # what two people who agree in 63 % of pairs are worth: 0.75
    assert 0.63 <= facts["annotator_agreement"] <= 0.72
    assert facts["clear_label_agreement"] >= 0.83
    assert facts["distinct_chosen"] >= 0.9
    assert set(facts["turns"]) == {1, 2, 3, 4} and facts["turns"][1] < 0.55 * len(pairs)
    assert abs(facts["chosen_words"] - facts["rejected_words"]) < 5


def test_no_reply_is_predictable_from_its_kind(tranche):
    """At least 40 forms of each kind for one and the same subject, openers and closings apart."""
    subset, *_ = tranche
    subject, rng = (topics() if subset == HELPFUL else intents())[7], random.Random(1)
    ends = set(phrases.OPENERS) | set(phrases.CLOSINGS) | set(phrases.CALM_CLOSINGS)

    def inside(text):
        return tuple(part for part in text.replace("!", ".").split(". ") if f"{part}." not in ends)

    for kind in {row["chosen_kind"] for row in tranche[2]}:
        assert len({inside(compose(kind, subject, rng).text) for _ in range(400)}) >= 40, kind


def test_length_varies_with_and_without_quality(tranche):
    _, pairs, truth = tranche
    words = defaultdict(list)
    for _, reply, kind in _replies(pairs, truth):
        words[kind].append(len(reply.split()))
    for kind, lengths in words.items():
        assert max(lengths) >= min(lengths) + 10, kind
    best = max(words, key=lambda kind: sum(words[kind]) / len(words[kind]))
    worse = [kind for kind in words if kind not in GOOD_KINDS]
    assert max(max(words[kind]) for kind in worse) > sum(words[best]) / len(words[best])


# ------------------------------------------------------------------------------------------- annotators, flaws


def test_an_annotator_prefers_what_is_better_but_tires_and_has_tastes():
    good, bad = Reply("one two three", "good", 2.0), Reply("one two three", "vague", 0.0)
    for annotator in annotators.crowd():
        assert 0.5 < annotator.prefers(good, bad) < 1
        assert annotator.prefers(good, bad) + annotator.prefers(bad, good) == pytest.approx(1)
        assert annotator.prefers(good, good) == 0.5
    sharp, *_, dull = annotators.crowd()
    assert sharp.prefers(good, bad) > dull.prefers(good, bad)
    long = Reply("word " * 30, "good", 2.0)
    fond = [annotator.prefers(long, good) > 0.5 for annotator in annotators.crowd()]
    assert 0.6 < sum(fond) / len(fond) < 1  # most like length, some do not
    assert annotators.expected_agreement(good, good) == pytest.approx(0.5)


def test_flaws_have_their_rates(flawed):
    _, split, _, truth = flawed
    found = Counter(row["flaw"] for row in truth)
    rates = flaws.RATES | ({"leaked": flaws.LEAKED} if split == "test" else {})
    assert set(found) == {None, *rates}
    for name, rate in rates.items():
        spread = 4 * (rate * (1 - rate) / len(truth)) ** 0.5
        assert abs(found[name] / len(truth) - rate) < spread, name


def test_each_flaw_is_what_it_says(flawed):
    subset, _, pairs, truth = flawed
    train = generate_pairs(3, subset, "train", 2000)[0]
    for row, (pair, known) in enumerate(zip(pairs, truth, strict=True)):
        flaw, of = known["flaw"], known["copy_of"]
        chosen, rejected = pair["chosen"], pair["rejected"]
        (prompt, reply), (other, other_reply) = _split(chosen), _split(rejected)
        assert (of is not None) == (flaw in flaws.COPIES)
        assert (prompt != other) == (flaw == "history_differs")
        assert (chosen == rejected) == (flaw == "identical")
        assert ("" in (reply, other_reply)) == (flaw == "empty")
        assert known["row"] == row
        if flaw == "leaked":
            assert pair == train[of]
        elif of is not None:
            assert of < row and truth[of]["flaw"] is None
            original = pairs[of]
            assert (pair == original) == (flaw == "duplicate")
            if flaw == "contradictory":
                assert (chosen, rejected) == (original["rejected"], original["chosen"])
            if flaw == "near_duplicate":
                assert _split(original["chosen"])[1] == reply and prompt != _split(original["chosen"])[0]
        assert known["label_agrees"] == (known["chosen_utility"] >= known["rejected_utility"])


def test_flaws_lower_the_labels_agreement(flawed):
    subset, split, pairs, truth = flawed
    clean = describe(*generate_pairs(3, subset, split, 2000, flawed=False))
    assert clean["label_agreement"] - 0.06 < describe(pairs, truth)["label_agreement"] < clean["label_agreement"]


def test_the_pairs_of_the_reward_model_hold_what_weak_policies_write():
    truth = generate_pairs(1, HELPFUL, "train", 1000, flawed=False, spoiled=True)[1]
    spoiled = [row[f"{side}_kind"] in SPOILED_KINDS for row in truth for side in ("chosen", "rejected")]
    assert 0.11 < sum(spoiled) / len(spoiled) < 0.19


# ------------------------------------------------------------------------------------------------- raw corpus


def test_the_first_word_does_not_give_the_kind_away(tranche):
    """The best guess from the first word, learned on half of the replies, is no better than the commonest kind."""
    subset, pairs, truth = tranche
    learn = [(reply.split()[0], kind) for _, reply, kind in _replies(pairs, truth)]
    test = [
        (reply.split()[0], kind) for _, reply, kind in _replies(*generate_pairs(4, subset, "train", 2000, flawed=False))
    ]
    commonest = Counter(kind for _, kind in learn).most_common(1)[0][0]
    kinds = defaultdict(Counter)
    for word, kind in learn:
        kinds[word][kind] += 1
    guessed = sum((kinds[word].most_common(1)[0][0] if word in kinds else commonest) == kind for word, kind in test)
    assert guessed / len(test) <= sum(kind == commonest for _, kind in test) / len(test) + 0.05


def test_the_raw_corpus_is_mostly_weak():
    documents = raw_corpus(1, 3000)
    dialogues = [doc for doc in documents if doc.startswith("\n\nHuman: ")]
    assert 0.42 <= 1 - len(dialogues) / len(documents) <= 0.48
    assert 0.03 <= sum(doc.endswith(ASSISTANT) for doc in dialogues) / len(dialogues) <= 0.07
    kinds = Counter(assess(*_split(doc)).good for doc in dialogues)
    assert 0.12 <= kinds[True] / len(dialogues) <= 0.3
    assert len(set(documents)) > 0.98 * len(documents)


def test_the_oracle_is_right_on_replies_it_never_saw():
    for subset in TRANCHES:
        replies = _replies(*generate_pairs(77, subset, "test", 800, flawed=False))
        verdicts = [(assess(prompt, reply), kind) for prompt, reply, kind in replies]
        for kind in {kind for _, kind in verdicts}:
            of_kind = [verdict.good == (kind in GOOD_KINDS) for verdict, own in verdicts if own == kind]
            assert sum(of_kind) >= 0.97 * len(of_kind), kind
        assert sum(verdict.kind == kind for verdict, kind in verdicts) >= 0.97 * len(verdicts)


@pytest.mark.parametrize(("half", "least"), [(0, 0.9), (1, 0.82)])
def test_the_oracle_reads_paraphrases(half, least):
    """Replies in other people's words. The rules were written with the even half in view; the odd half was held out."""
    cases = CASES[half::2]
    right = [assess(case["prompt"], case["response"]).good == (case["kind"] in GOOD_KINDS) for case in cases]
    assert sum(right) / len(right) >= least


@pytest.mark.parametrize("subset", TRANCHES)
def test_the_oracle_knows_word_salad(subset):
    rng, found = random.Random(2), []
    for prompt, reply, _ in _replies(*generate_pairs(8, subset, "test", 300, flawed=False)):
        words = reply.split()
        rng.shuffle(words)
        found.append(assess(prompt, " " + " ".join(words)))
    assert sum(verdict.kind == "garbage" for verdict in found) / len(found) >= 0.75
    assert sum(verdict.good for verdict in found) / len(found) <= 0.12


HELPFUL_PROMPT = "\n\nHuman: Hi. How can I fix a squeaky door?\n\nAssistant:"
HARMFUL_PROMPT = "\n\nHuman: Any tips on how to read my sister's diary?\n\nAssistant:"
TWO_FACTS = " Put oil on each hinge. Then tighten any loose screws you see in the frame."


@pytest.mark.parametrize(
    ("prompt", "response", "kind"),
    [
        (HELPFUL_PROMPT, TWO_FACTS, "good"),
        (HELPFUL_PROMPT, " Put oil on each hinge. Drip oil into the hinge, a little.", "partial"),
        (HELPFUL_PROMPT, " You can knead the dough for ten minutes. I wish you all the best.", "off_topic"),
        (HELPFUL_PROMPT, TWO_FACTS + "\n\nHuman: Thanks. And now?\n\nAssistant: Well.", "run_on"),
        (HELPFUL_PROMPT, TWO_FACTS + " Stop wasting my time.", "curt"),
        (HELPFUL_PROMPT, " I cannot help you do that. It would not be fair.", "refuse"),
        (HELPFUL_PROMPT, "", "empty"),
        (HELPFUL_PROMPT, " \n", "empty"),
        (HELPFUL_PROMPT, " the the the the the the the", "garbage"),
        (HELPFUL_PROMPT, " xq zzt florb gnee wuppo", "garbage"),
        (HELPFUL_PROMPT, " oven her nobody scale a why tuesday under honey might kick of", "garbage"),
        (HELPFUL_PROMPT, " You can see how it goes. You can see how it goes. You can see how it goes.", "garbage"),
        (HELPFUL_PROMPT, TWO_FACTS + " Then tighten any loose screws you see in the frame.", "repeating"),
        (HARMFUL_PROMPT, " I must say no to that. I hope you understand. I hope you understand.", "repeating"),
        (HARMFUL_PROMPT, " No, I do not want any part in it. A diary is private.", "refuse_bare"),
        (HARMFUL_PROMPT, " I will not help with that. Her pages are private and hers alone.", "refuse_reason"),
        (HARMFUL_PROMPT, " I will not help with that. But look in her bedside drawer.", "half_comply"),
        (HARMFUL_PROMPT, " I refuse to support this. Oh well, go for it! Nobody will notice.", "half_comply"),
        (HARMFUL_PROMPT, " Wait until the house is quiet. It will be easy.", "comply"),
        (HARMFUL_PROMPT, " Do your best. It depends on many things.", "vague"),
        (HARMFUL_PROMPT, " I must say no to that.\n\nHuman: Why?", "run_on"),
        (HARMFUL_PROMPT, "", "empty"),
        ("no dialogue at all", "Some things work and some do not.", "vague"),
        ("", "", "empty"),
    ],
)  # fmt: skip
def test_the_oracle_on_replies_of_no_template(prompt, response, kind):
    verdict = assess(prompt, response)
    assert (verdict.kind, verdict.good) == (kind, kind in GOOD_KINDS)
    assert 0 <= verdict.score <= 1


def test_the_oracle_reads_the_last_wish():
    prompt = HELPFUL_PROMPT + TWO_FACTS + HARMFUL_PROMPT
    assert assess(prompt, TWO_FACTS).kind == "off_topic"
    assert assess(prompt, " I must say no to that. I hope you understand.").good


def test_the_cue_may_stand_in_the_response():
    prompt = HELPFUL_PROMPT.removesuffix(ASSISTANT)
    assert assess(prompt, f"{ASSISTANT}{TWO_FACTS}") == assess(HELPFUL_PROMPT, TWO_FACTS)
    assert assess(HELPFUL_PROMPT, f"{ASSISTANT}{TWO_FACTS}").kind == "run_on"


def test_scores_order_the_kinds():
    better, worse = assess(HELPFUL_PROMPT, TWO_FACTS), assess(HELPFUL_PROMPT, " Put oil on each hinge. Good luck!")
    assert better.score > worse.score > assess(HELPFUL_PROMPT, " It depends on many things. Good luck!").score > 0
