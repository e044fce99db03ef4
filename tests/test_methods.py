"""Every row of the table of methods: it trains, starts where it says, explains itself, and its models reach the end."""

import hashlib
import importlib
import json
import math

import pandas as pd
import pytest
import tiny
import torch
from typer.testing import CliRunner

from helpers import course
from helpers.__main__ import app
from helpers.core import distributed, methods, quiet
from helpers.core.errors import CourseError, SettingsError
from helpers.core.methods import BY_LOSS, METHODS
from helpers.core.names import label
from helpers.core.settings import resolve
from helpers.evaluation.metrics_file import MetricsFile
from helpers.models import loading
from helpers.pipeline import run, stages
from helpers.pipeline.train import _check_shares
from helpers.training import dpo, losses, preference_rows

PAIRS = tiny.made_up(34, seed=1)
TRAIN, HELDOUT = PAIRS[:22].reset_index(drop=True), PAIRS[22:].reset_index(drop=True)
WITH_REFERENCE = [method.loss for method in BY_LOSS.values() if method.has_reference]
WITHOUT = [method.loss for method in BY_LOSS.values() if not method.has_reference]
EXPECTED = {"sigmoid": math.log(2), "ipo": 25.0, "robust": math.log(2), "simpo": None, "orpo": None}


def train(loss, out, **given):
    settings = tiny.settings(preference_loss=loss, **given)
    dpo.train_preferences(tiny.policy_folder(), TRAIN, HELDOUT, settings, out)
    return pd.read_csv(out / "log.csv"), json.loads((out / "summary.json").read_text())


@pytest.mark.parametrize("loss", BY_LOSS)
def test_every_preference_loss_trains_from_where_it_says(loss, tmp_path):
    log, summary = train(loss, tmp_path, dpo_learning_rate=5e-3)
    expected = BY_LOSS[loss].expected_first_loss(tiny.settings(preference_loss=loss))
    if loss in EXPECTED:
        assert expected == (EXPECTED[loss] and pytest.approx(EXPECTED[loss]))
    if expected:
        assert log["loss"].iloc[0] == pytest.approx(expected, rel=1e-5) == summary["first_loss"]
    heldout = log[log["split"] == "heldout"]
    assert heldout["loss"].iloc[-1] < heldout["loss"].iloc[0]
    assert heldout["rewards_margins"].iloc[-1] > heldout["rewards_margins"].iloc[0]
    assert {"logps_chosen", "logps_rejected", "rewards_accuracies", "generated_length", "eos_rate"} <= set(log.columns)
    assert 0 < summary["trainable_parameters"] < summary["parameters"] / 2
    assert not torch.equal(
        loading.load_policy(tmp_path / "model", device="cpu").model.decoder.layers[0].fc1.weight,
        tiny.policy()[0].model.decoder.layers[0].fc1.weight,
    )


@pytest.mark.parametrize("loss", WITH_REFERENCE)
def test_dropout_that_nobody_asked_for_is_found(loss, tmp_path, monkeypatch):
    def with_dropout(source, *, dropout, device):
        return loading.load_policy(source, dropout=0.2, device=device)

    monkeypatch.setattr(dpo, "load_policy", with_dropout)
    row = BY_LOSS[loss]
    with pytest.raises(CourseError, match="dropout is on") as caught:
        train(loss, tmp_path)
    assert f"{row.title} starts at loss" in str(caught.value) and row.first_loss_name in str(caught.value)


def test_the_expected_first_loss_follows_the_settings():
    assert METHODS["ipo"].expected_first_loss(tiny.settings(beta=0.5)) == 1
    assert METHODS["dpo"].expected_first_loss(tiny.settings(dpo_reference="none")) is None
    assert METHODS["robust"].expected_first_loss(
        tiny.settings(preference_loss="robust", label_smoothing=0.3)
    ) == pytest.approx(math.log(2))
    zero = torch.zeros(1)
    assert losses.robust_loss(zero, zero, zero, zero, 0.1, 0.3).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("loss", WITHOUT)
def test_experimental_trainers_see_the_same_tokens_as_dpo(loss, tmp_path):
    settings = tiny.settings()
    with quiet.quiet():
        made = [
            dpo.preference_trainer(tiny.policy_folder(), TRAIN, HELDOUT, settings, tmp_path, row)
            for row in (METHODS["dpo"], BY_LOSS[loss])
        ]
    ours, theirs = (preference_rows.preference_ids(trainer.train_dataset) for trainer in made)
    assert ours == theirs
    rows = made[1].train_dataset
    for side in ("chosen", "rejected"):
        for prompt, ids, labels in zip(rows["prompt"], rows[f"{side}_input_ids"], rows[f"{side}_labels"], strict=True):
            start = len(made[1].processing_class(prompt)["input_ids"])
            assert labels == [losses.IGNORED] * start + ids[start:]  # the loss is on the completion, EOS included


@pytest.mark.parametrize("loss", WITHOUT)
def test_a_prompt_that_fills_the_row_is_left_out_and_a_glued_one_refused(loss, tmp_path):
    long = TRAIN.copy()
    long.loc[3, "prompt"] = " dog" * 100 + long.loc[3, "prompt"]
    settings = tiny.settings(preference_loss=loss, dpo_epochs=0.2)
    dpo.train_preferences(tiny.policy_folder(), long, HELDOUT, settings, tmp_path / "long")
    summary = json.loads((tmp_path / "long" / "summary.json").read_text())
    assert (summary["rows_given"], summary["rows_used"], summary["rows_dropped"]) == (22, 21, 1)
    assert summary["tokens_max"] <= 96
    glued = TRAIN.assign(prompt=TRAIN["prompt"] + " Y", chosen="es.", rejected="o.")
    with pytest.raises(CourseError, match="22 of 22 prompts change"):
        dpo.train_preferences(tiny.policy_folder(), glued, HELDOUT, settings, tmp_path / "glued")


@pytest.mark.parametrize("loss", WITHOUT)
def test_a_killed_training_goes_on_to_the_same_bytes(loss, tmp_path):
    class Killed(Exception):
        pass

    def kill(step, last):
        if step == last - 1:
            raise Killed

    settings = tiny.settings(preference_loss=loss)
    start = (tiny.policy_folder(), TRAIN, HELDOUT, settings)
    dpo.train_preferences(*start, tmp_path / "whole")
    with pytest.raises(Killed):
        dpo.train_preferences(*start, tmp_path / "killed", progress=kill)
    dpo.train_preferences(*start, tmp_path / "killed")
    names = ("log.csv", "summary.json", "adapter/adapter_model.safetensors", "model/model.safetensors")
    digests = [
        [hashlib.sha256((tmp_path / kind / name).read_bytes()).hexdigest() for name in names]
        for kind in ("whole", "killed")
    ]
    assert digests[0] == digests[1]


def test_every_name_in_the_table_leads_somewhere():
    for method in METHODS.values():
        assert callable(getattr(losses, method.formula))
        with quiet.quiet():
            assert callable(methods.imported(method.trainer)) and callable(methods.imported(method.config))
        fields = methods.imported(method.config).__dataclass_fields__
        assert {*method.fixed, *method.from_settings} <= set(fields)
        assert set(method.from_settings.values()) <= set(type(tiny.settings()).model_fields)
    assert set(EXPECTED) <= set(importlib.import_module("helpers.core.methods").LOSSES)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"models": "base,sft,sft_ipoo"}, "no model is called 'sft_ipoo' (did you mean 'sft_ipo'?)"),
        ({"models": "base,sft,sft_sft"}, "no model is called 'sft_sft'"),
        ({"models": "base,dpo,dpo"}, "models names dpo twice"),
        ({"models": "sft,base"}, "models must begin with base"),
        ({"models": "base"}, "name at least one other"),
        ({"models": "base,sft_ipo"}, "sft_ipo starts from sft, so sft must stand before it"),
        ({"models": "base,sft_ipo,sft"}, "sft_ipo starts from sft, so sft must stand before it"),
        ({"models": "base,dpo,ipo", "preference_loss": "ipo"}, "dpo and ipo are one model: leave one out"),
        ({"models": "base,sft,orpo", "preference_loss": "ipo"}, "models names neither"),
        ({"preference_loss": "ipo", "dpo_reference": "none"}, "the ipo loss of dpo needs one"),
        ({"preference_loss": "robust", "label_smoothing": 0.5}, "label_smoothing = 0.5"),
        ({"simpo_gamma": 0.3}, "simpo_gamma belongs to the simpo loss, with which no model of this run is trained"),
        ({"models": "base,orpo", "beta": 0.3}, "beta belongs to the sigmoid loss"),
        ({"preference_loss": "ippo"}, "(did you mean 'ipo'?)"),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_line(given, said):
    with pytest.raises(SettingsError) as caught:
        resolve(**given)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def opened(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path / "results"))
    sizes = {"train_pairs": 8, "heldout_pairs": 4, "eval_prompts": 2, "max_new_tokens": 2, "scoring_batch_size": 4}
    sizes |= {"sft_epochs": 0.2, "dpo_epochs": 0.2, "sft_batch_size": 4, "dpo_batch_size": 4, "sft_max_length": 256}
    sizes |= {"dpo_max_length": 256, "max_prompt_length": 128}
    return lambda **given: run.open_run(**({"profile": "smoke", "device": "cpu"} | sizes | given))


def test_more_models_reach_metrics_and_report(opened):
    run = opened(models="base,sft,dpo,sft_dpo,orpo,sft_ipo")
    course.finish_run(run, run.folder)
    written = MetricsFile.model_validate_json((run.folder / "metrics.json").read_text())
    assert list(written.models) == ["base", "sft", "dpo", "sft_dpo", "orpo", "sft_ipo"]
    assert len(written.comparisons) == 3 * 15 and list(written.published) == list(methods.PAPER_MODELS)
    page = (run.folder / "report.html").read_text()
    assert "Six models answer" in page and "SFT+IPO" in page
    assert "after identity preference optimization from SFT" in page
    assert (run.folder / "stages" / "sft_ipo" / "model").is_dir() and not run.ready("ipo")


def test_a_stage_depends_on_the_settings_of_its_own_loss_alone(opened, monkeypatch):
    first = opened()
    for name in ("sft", "dpo", "orpo"):
        stages.policy(first, name)

    def no_work(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr("helpers.training.sft.train_sft", no_work)
    monkeypatch.setattr("helpers.training.dpo.train_preferences", no_work)
    ipo = opened(preference_loss="ipo")
    stages.policy(ipo, "sft")
    with pytest.raises(AssertionError, match="trained again"):
        stages.policy(ipo, "dpo")
    more = opened(models="base,sft,dpo,sft_dpo,robust,simpo", label_smoothing=0.2, simpo_gamma=0.5)
    stages.policy(more, "dpo")
    held = opened(dpo_reference="precomputed", beta=0.3)  # ORPO has neither a reference nor that beta
    stages.policy(held, "orpo")
    with pytest.raises(AssertionError, match="trained again"):
        stages.policy(held, "dpo")
    with pytest.raises(AssertionError, match="trained again"):
        stages.policy(opened(models="base,orpo", orpo_weight=0.2), "orpo")


def test_losses_with_a_reference_share_it(opened, monkeypatch):
    run, asked = opened(dpo_reference="precomputed"), []
    compute = dpo.reference_of
    monkeypatch.setattr(dpo, "reference_of", lambda *given: asked.append(given) or compute(*given))
    for name in ("dpo", "ipo", "robust", "simpo"):
        stages.policy(run, name)
    assert len(asked) == 1
    first = stages.training_log(run, "ipo")["loss"].iloc[0]
    assert first == pytest.approx(25, abs=1e-2)


def test_a_model_that_the_settings_forbid_is_refused_when_it_is_asked_for(opened):
    run = opened(dpo_reference="none")
    with pytest.raises(SettingsError, match="the ipo loss of ipo needs one"):
        stages.policy(run, "ipo")


def test_train_only_one_more_model(opened, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    sizes = opened().resolved.given
    given = [word for name, value in sizes.items() for word in ("-p", f"{name}={value}")]
    done = CliRunner().invoke(app, ["train", *given, "--only", "orpo", "-p", "run=one"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "results" / "one" / "stages" / "orpo" / "model").is_dir()
    assert not (tmp_path / "results" / "one" / "stages" / "sft").exists()
    wrong = CliRunner().invoke(app, ["train", *given, "--only", "orpoo"])
    assert wrong.exit_code and "did you mean 'orpo'" in wrong.output


def test_several_processes_refuse_what_they_cannot_share(monkeypatch):
    monkeypatch.setattr(distributed, "count", lambda: 2)
    _check_shares(tiny.settings())
    with pytest.raises(SettingsError, match="3 rows cannot be shared evenly by 2 processes"):
        _check_shares(tiny.settings(dpo_batch_size=3))


def test_the_whole_course_needs_the_four_models(opened):
    with pytest.raises(SettingsError, match="models lacks dpo: the notebooks compare"):
        course.run_course({"profile": "smoke", "models": "base,sft,orpo"})


def test_names():
    assert label("sft_robust") == "SFT+rDPO" and label("orpo") == "ORPO" and label("chosen") == "chosen"
    assert (
        methods.starts_from("sft") == methods.starts_from("dpo") == "base" and methods.starts_from("sft_ipo") == "sft"
    )
    assert methods.method_of("sft_dpo", "ipo") is METHODS["ipo"] and methods.method_of("sft") is METHODS["sft"]
    with pytest.raises(ValueError, match="no model is called"):
        MetricsFile.model_validate({"models": {"gpt": {}}})
