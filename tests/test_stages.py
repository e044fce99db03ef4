"""The stage graph on the smallest profile: no leakage, the paper's prompts where they belong, reused stages."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from helpers.core.errors import DataError, StageError
from helpers.data import prompts
from helpers.data.pairs import load_transcripts
from helpers.data.synthetic import assess as oracle
from helpers.data.transcripts import ASSISTANT, first_turn
from helpers.evaluation import thresholds
from helpers.pipeline import evaluation, run, stages
from helpers.training import reference_logps


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Open runs in a results folder of their own: course(profile="smoke", ...)."""
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path))
    return lambda **given: run.open_run(**({"profile": "smoke"} | given))


def dialogues_in(folder: Path, split: str, questions: list[str]) -> None:
    for subset in ("harmless-base", "helpful-base"):
        rows = [
            {side: f"\n\nHuman: {subset} {question}\n\nAssistant: {side}" for side in ("chosen", "rejected")}
            for question in questions
        ]
        (folder / subset).mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / subset / f"{split}.jsonl.gz").write_bytes(gzip.compress(text.encode()))


def test_no_first_turn_is_on_two_sides(course):
    data = stages.pairs(course())
    sides = [set(frame["prompt"].map(first_turn)) for frame in (data.train, data.heldout)]
    sides.append(set(data.prompts["chosen"].map(first_turn)))
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert (len(data.train), len(data.heldout), len(data.prompts)) == (48, 16, 12)


def test_another_seed_draws_other_training_pairs_but_the_same_evaluation_prompts(course):
    one, two = stages.pairs(course()), stages.pairs(course(seed=1))
    assert not one.train.equals(two.train)
    assert one.prompts.equals(two.prompts) and one.heldout.equals(two.heldout)


def test_leaking_training_pairs_are_removed_and_counted(course, tmp_path):
    folder = tmp_path / "data"
    dialogues_in(folder, "train", [f"train {i}" for i in range(60)] + [f"test {i}" for i in range(30)])
    dialogues_in(folder, "test", [f"test {i}" for i in range(60)])
    data = stages.pairs(course(dataset=str(folder), train_pairs=0, heldout_pairs=10))
    assert not set(data.train["prompt"].map(first_turn)) & set(data.prompts["chosen"].map(first_turn))
    assert data.counts["train pairs read"] == 180 and len(data.train) <= 180


def test_a_dataset_without_training_pairs_is_refused_in_one_line(course, tmp_path):
    folder = tmp_path / "data"
    dialogues_in(folder, "train", [])
    dialogues_in(folder, "test", ["one"])
    with pytest.raises(DataError, match="holds no training pair"):
        stages.pairs(course(dataset=str(folder)))


def test_the_cue_closes_a_prompt_in_the_recommended_recipe_only(course):
    assert all(prompt.endswith(ASSISTANT) for prompt in stages.evaluation_prompts(course())["prompt"])
    published = stages.evaluation_prompts(course(recipe="published"))["prompt"]
    assert not any(prompt.endswith(ASSISTANT) for prompt in published)
    assert all(prompt.startswith("Human:") for prompt in published)


@pytest.mark.parametrize(
    ("own_number", "expected"), [(None, "the paper's 100"), (7, "7 a side, drawn from the test pairs")]
)
def test_the_papers_test_files_give_its_prompts_unless_a_number_is_asked_for(
    course, tmp_path, monkeypatch, own_number, expected
):
    folder = tmp_path / "data"
    dialogues_in(folder, "train", ["a", "b"])
    dialogues_in(folder, "test", [f"kill weed {i}" for i in range(60)])
    drawn = prompts.paper_rows(load_transcripts(folder, ["harmless-base", "helpful-base"], "test"))
    own = drawn.groupby("side")["chosen"].agg(lambda texts: "\n\x1e\n".join(map(prompts.paper_prompt, texts)))
    sha256 = {side: hashlib.sha256(text.encode()).hexdigest() for side, text in own.items()}
    monkeypatch.setattr(prompts, "PAPER_SHA256", sha256)
    data = stages.pairs(course(dataset=str(folder), eval_prompts=own_number))
    assert data.counts["evaluation prompts"] == expected
    assert len(data.prompts) == 2 * (own_number or 50)
    assert (data.prompts["chosen"].tolist() == drawn["chosen"].tolist()) == (own_number is None)


def test_thresholds_follow_the_rule_and_the_reward_model(course):
    run = course()
    assert stages.thresholds(run, "published") == thresholds.PUBLISHED
    cuts, rows = stages.thresholds(run), stages.calibration_replies(run)
    assert cuts.rule == "calibrated" and len(rows) == 2 * len(stages.heldout_scores(run))
    for side, cut in (("harmful", cuts.harmless), ("helpful", cuts.helpful)):
        mine = rows[rows["side"] == side]
        assert cut == thresholds.calibrate(mine["score"][mine["good"]], mine["score"][~mine["good"]])


def test_good_is_what_the_oracle_says_or_else_the_label(course):
    embedded = course()
    rows, pairs = stages.calibration_replies(embedded), stages.heldout_scores(embedded)
    said = [oracle(row.prompt, row.chosen).good for row in pairs.itertuples()]
    labels = [True] * len(pairs)
    assert rows["good"].tolist()[: len(pairs)] in (said, labels)
    folder = course(run="own", dataset=str(stages.EMBEDDED["dataset"]))
    assert stages.calibration_replies(folder)["good"].tolist() == labels + [False] * len(pairs)


def test_an_unknown_model_and_a_training_that_never_was_are_named(course):
    with pytest.raises(StageError, match=r"no model is called 'dpo2' \(did you mean 'dpo'\?\)"):
        stages.policy(course(), "dpo2")
    with pytest.raises(StageError, match=r"no model is called 'xyz': choose from base, sft, .*sft_dpo"):
        stages.policy(course(), "xyz")
    with pytest.raises(StageError, match="only profile local trains it"):
        stages.training_log(course(), "base")


def test_responses_are_kept_and_depend_on_what_makes_them(course, monkeypatch):
    run = course()
    answers = stages.responses(run, "base")
    assert len(answers) == 12 and {"response", "tokens", "ended"} <= set(answers.columns)

    def no_work(*_, **__):
        raise AssertionError("generated again")

    monkeypatch.setattr("helpers.models.generation.generate", no_work)
    assert stages.responses(course(), "base").equals(answers)
    with pytest.raises(AssertionError, match="generated again"):
        stages.responses(course(max_new_tokens=8), "base")


def test_a_sweep_computes_the_reference_once(course, monkeypatch):
    given = {"dpo_reference": "precomputed", "dpo_epochs": 0.4}
    first = course(**given)
    stages.policy(first, "dpo")
    kept = first.folder / "stages" / "reference-base"

    def no_work(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr("helpers.training.dpo.reference_of", no_work)
    other = course(**given, beta=0.3, dpo_learning_rate=2e-4, dpo_batch_size=8, lora_rank=4, gradient_accumulation=2)
    stages.policy(other, "dpo")
    assert (other.folder / "stages" / "reference-base" / "train.csv").read_bytes() == (kept / "train.csv").read_bytes()
    assert len(reference_logps.load(kept)[0]) == 48 and stages.training_summary(other, "dpo")["first_loss"]
    for changed in ({"dpo_max_length": 400}, {"explicit_prompt": False}, {"precision": "bfloat16"}, {"seed": 1}):
        with pytest.raises(AssertionError, match="computed again"):
            stages.policy(course(**given, **changed), "dpo")


def test_the_truth_is_known_of_embedded_dialogues_only(course, monkeypatch, tmp_path):
    rows = stages.evaluation_prompts(course()).assign(response=" I will not help with that.")
    monkeypatch.setattr(evaluation, "responses", lambda run, name: rows)
    known = stages.truth(course())
    assert known.keys() == set(stages.PAPER_MODELS)
    assert (known["base"]["hmr"].value, known["base"]["hpr"].value) == (100, 0)  # a refusal is good on one side only
    dialogues_in(tmp_path / "data", "train", ["one"])
    assert stages.truth(course(dataset=str(tmp_path / "data"))) is None
