import dataclasses
import hashlib
import json
import math
from contextlib import nullcontext
from types import SimpleNamespace

import pandas as pd
import pytest
import tiny
import torch

from helpers.core import quiet
from helpers.core.errors import CourseError, DataError, SettingsError
from helpers.core.methods import METHODS
from helpers.models import hardware, loading, sizes, small_models
from helpers.training import (
    arguments,
    callbacks,
    checkpoints,
    loop,
    losses,
    memory,
    reference_logps,
    reward_model,
    rows,
    samplers,
)
from helpers.training import pretrain as pretraining
from helpers.training.dpo import preference_trainer, reference_of, train_preferences
from helpers.training.sft import train_sft

PAIRS = tiny.made_up(34, seed=1)
TRAIN, HELDOUT = PAIRS[:22].reset_index(drop=True), PAIRS[22:].reset_index(drop=True)
PUBLISHED = {"recipe": "published", "sft_batch_size": 2, "dpo_batch_size": 2, "gradient_accumulation": 2}


def sft(out, progress=None, **given):
    train_sft(tiny.policy_folder(), TRAIN, HELDOUT, tiny.settings(**given), out, progress=progress)


def dpo(out, progress=None, **given):
    train_preferences(tiny.policy_folder(), TRAIN, HELDOUT, tiny.settings(**given), out, progress=progress)


def reward(out, progress=None, **given):
    tokenizer = tiny.reward_model()[1]
    fresh = small_models.new_reward_model(tokenizer, seed=0, hidden=64, layers=1)
    given = {"reward_epochs": 6.0} | given
    reward_model.train_reward_model(fresh, tokenizer, TRAIN, HELDOUT, tiny.settings(**given), out, progress=progress)


def pretrain(out, progress=None, **given):
    whole = [list(rows["prompt"] + rows["chosen"]) for rows in (TRAIN, HELDOUT)]
    given = {"pretrain_epochs": 6.0} | given
    pretraining.pretrain(tiny.policy_folder(), *whole, tiny.settings(**given), out, progress=progress)


def fingerprint(out):
    names = [*out.glob("model/*"), *out.glob("adapter/*"), out / "log.csv", out / "summary.json"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


class Killed(Exception):
    pass


CASES = {"sft": (sft, {}), "sft-published": (sft, PUBLISHED), "dpo": (dpo, {}), "dpo-published": (dpo, PUBLISHED)}
CASES |= {"dpo-precomputed": (dpo, {"dpo_reference": "precomputed"}), "dpo-printed": (dpo, {"dpo_reference": "none"})}
CASES |= {"reward_model": (reward, {}), "pretrain": (pretrain, {})}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_training_goes_on_to_the_same_bytes(case, tmp_path, capfd):
    train, given = CASES[case]
    steps = []
    train(tmp_path / "whole", progress=lambda step, last: steps.append((step, last)), **given)
    last = steps[-1][0]
    assert steps == [(step, last) for step in range(1, last + 1)] and last >= 10
    capfd.readouterr()

    def kill(step, last):
        if step == last - 1:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "killed", progress=kill, **given)
    checkpoints = tmp_path / "killed" / "checkpoints"
    (whole,) = checkpoints.glob("checkpoint-*")
    half = checkpoints / "checkpoint-99"  # a checkpoint that was being written when the power went
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    resumed = []
    train(tmp_path / "killed", progress=lambda step, last: resumed.append(step), **given)
    assert resumed[0] == int(whole.name.split("-")[1]) + 1 > last // 2
    assert not half.exists()
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")
    assert capfd.readouterr() == ("", "")


def read(out):
    return pd.read_csv(out / "log.csv"), json.loads((out / "summary.json").read_text())


def test_sft_log_and_summary(tmp_path):
    sft(tmp_path, sft_learning_rate=5e-3)
    log, summary = read(tmp_path)
    heldout = log[log["split"] == "heldout"]
    assert set(log["split"]) == {"train", "heldout"}
    assert heldout["step"].iloc[0] == 0 and heldout["step"].iloc[-1] == summary["steps"] == 12
    assert len(heldout) == callbacks.EVALUATED + 1
    assert heldout["generated_length"].between(1, 4).all() and heldout["eos_rate"].between(0, 1).all()
    assert heldout["loss"].iloc[-1] < heldout["loss"].iloc[0]
    assert {"grad_norm", "learning_rate", "epoch"} <= set(log.columns)
    assert summary["rows_given"] == summary["rows_used"] == 22 and summary["rows_dropped"] == summary["rows_cut"] == 0
    assert summary["trainable_parameters"] == summary["parameters"]
    assert summary["example"]["first_ids"][0] == 2 != summary["example"]["first_ids"][1]
    assert summary["example"]["last_ids"][-1] == 2 != summary["example"]["last_ids"][-2]
    assert summary["first_loss"] == log.loc[log["split"] == "train", "loss"].iloc[0]
    before, after = tiny.policy()[0], loading.load_policy(tmp_path / "model", dropout=0.0, device="cpu")
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)


def test_dpo_starts_at_ln_2_and_trains_the_adapter_alone(tmp_path):
    dpo(tmp_path, dpo_learning_rate=5e-3)
    log, summary = read(tmp_path)
    first = log.iloc[0]
    assert (first["step"], first["split"]) == (0, "heldout")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6) == summary["first_loss"]
    assert first["rewards_margins"] == 0 and first["rewards_accuracies"] == 0
    heldout = log[log["split"] == "heldout"]
    assert heldout["loss"].iloc[-1] < math.log(2) and heldout["rewards_margins"].iloc[-1] > 0
    assert {"rewards_chosen", "rewards_rejected", "logps_chosen", "logps_rejected", "entropy"} <= set(log.columns)
    assert 0 < summary["trainable_parameters"] < summary["parameters"] / 2
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    assert config["target_modules"] == sorted(config["target_modules"])
    assert {"q_proj", "project_in", "fc1"} <= {name.split(".")[-1] for name in config["target_modules"]}


def test_a_precomputed_reference_is_the_same_reference(tmp_path):
    for kind in ("live", "precomputed"):
        dpo(tmp_path / kind, dpo_reference=kind, dpo_learning_rate=5e-3)
    live, before = (read(tmp_path / kind)[0]["loss"] for kind in ("live", "precomputed"))
    assert live.iloc[-1] < math.log(2) - 0.01 and before.to_numpy() == pytest.approx(live.to_numpy(), abs=1e-4)


def trls_own_reference(settings, out, monkeypatch):
    """The rows of a trainer that computes the reference itself, which the course does not let it do."""
    plain = arguments.training_arguments

    def with_reference(*args, **more):
        return plain(*args, **more, precompute_ref_log_probs=True)

    monkeypatch.setattr(arguments, "training_arguments", with_reference)
    with quiet.quiet():
        trainer = preference_trainer(tiny.policy_folder(), TRAIN, HELDOUT, settings, out, METHODS["dpo"])
    return trainer.train_dataset, trainer.eval_dataset


@pytest.mark.parametrize(
    "given",
    [{}, {"explicit_prompt": False}, {"dpo_max_length": 16}, {"dropout": 0.1}, {"precision": "bfloat16"}],
    ids=str,
)
def test_the_kept_reference_is_trls(given, tmp_path, monkeypatch):
    settings = tiny.settings(**given)
    near = 0.2 if "precision" in given else 1e-4  # a bfloat16 product depends on the other rows of the batch
    monkeypatch.setattr(reference_logps, "TOKENS_AT_ONCE", 200)
    reference_logps.save(reference_of(tiny.policy_folder(), TRAIN, HELDOUT, settings, tmp_path), tmp_path)
    for kept, own, given_rows in zip(
        reference_logps.load(tmp_path), trls_own_reference(settings, tmp_path, monkeypatch), (22, 12), strict=True
    ):
        assert kept["row"].tolist() == list(own["row"]) and (len(own) < given_rows) == ("dpo_max_length" in given)
        for side in reference_logps.COMPLETIONS:
            assert kept[f"{side}_logps"].to_numpy() == pytest.approx(own[f"ref_{side}_logps"][:], abs=near)


def test_a_kept_reference_is_used_and_that_of_other_rows_refused(tmp_path):
    settings = tiny.settings(dpo_reference="precomputed", dpo_epochs=1.0)
    known = reference_of(tiny.policy_folder(), TRAIN, HELDOUT, settings, tmp_path)
    start = (tiny.policy_folder(), TRAIN, HELDOUT, settings)
    train_preferences(*start, tmp_path / "given", reference=known)
    train_preferences(*start, tmp_path / "asked")
    assert fingerprint(tmp_path / "given") == fingerprint(tmp_path / "asked")
    half = tuple(rows[::2] for rows in known)
    other = reference_of(tiny.policy_folder(), TRAIN[::-1], HELDOUT, settings, tmp_path)
    for wrong in (half, other):
        with pytest.raises(CourseError, match="is not that of these 22 DPO rows"):
            train_preferences(*start, tmp_path / "wrong", reference=wrong)


def test_without_a_reference_the_loss_is_the_printed_one(tmp_path):
    dpo(tmp_path, dpo_reference="none")
    first = read(tmp_path)[0].iloc[0]
    model, tokenizer = tiny.policy()
    values = []
    for row in HELDOUT.itertuples():
        start = torch.tensor([len(tokenizer(row.prompt)["input_ids"])])
        sides = []
        for completion in (row.chosen, row.rejected):
            ids = tokenizer(row.prompt + completion + tokenizer.eos_token, return_tensors="pt")["input_ids"]
            labels = losses.labels_of_completion(ids, start, torch.tensor([ids.shape[1]]))
            with torch.no_grad():
                sides.append(losses.completion_log_probs(model(ids).logits, labels))
        values.append(losses.unreferenced_loss(*sides, beta=0.1))
    assert first["loss"] == pytest.approx(torch.cat(values).mean().item(), abs=1e-3)
    assert abs(first["loss"] - math.log(2)) > 1e-3


def test_published_dpo_adapts_q_and_v_of_whole_dialogues(tmp_path):
    dpo(tmp_path, **PUBLISHED, dpo_learning_rate=1e-4)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == {"q_proj", "v_proj"} and config["lora_dropout"] == 0.05
    log, summary = read(tmp_path)
    assert log["loss"].iloc[0] == pytest.approx(math.log(2), abs=1e-6)  # no dropout when evaluating
    assert abs(summary["first_loss"] - math.log(2)) > 1e-4  # and dropout in training, which nothing can switch off


def test_dropout_that_nobody_asked_for_is_found(tmp_path, monkeypatch):
    def with_dropout(source, *, dropout, device):
        return loading.load_policy(source, dropout=0.2, device=device)

    monkeypatch.setattr("helpers.training.dpo.load_policy", with_dropout)
    with pytest.raises(CourseError, match=r"ln 2.*dropout"):
        dpo(tmp_path)


def test_reward_rows_are_pairs_without_another_sep(tmp_path):
    reward(tmp_path, reward_epochs=4.0, reward_learning_rate=3e-3)
    log, summary = read(tmp_path)
    row = [*summary["example"]["first_ids"], *summary["example"]["last_ids"]]
    assert row[0] == 1 and row[-1] == 2 != row[-2]
    rows = reward_model._reward_rows(TRAIN, tiny.reward_model()[1])
    assert all(ids.count(1) == 1 and ids.count(2) == 2 for side in rows for ids in rows[side])
    assert {"accuracy", "margin"} <= set(log.columns) and "eos_rate" not in log.columns
    assert log["accuracy"].iloc[-1] > 0.8


def test_prompts_whose_tokens_change_are_refused(tmp_path):
    glued = TRAIN.assign(prompt=TRAIN["prompt"] + " Y", chosen="es.", rejected="o.")
    for train in (train_sft, train_preferences):
        with pytest.raises(CourseError, match=r"22 of 22 prompts change"):
            train(tiny.policy_folder(), glued, HELDOUT, tiny.settings(), tmp_path)


def test_long_rows_are_counted(tmp_path):
    lengths = (TRAIN["prompt"] + TRAIN["chosen"]).map(lambda text: len(tiny.policy()[1](text)["input_ids"]))
    limit = max(16, int(lengths.median()))
    sft(tmp_path, sft_max_length=limit, sft_epochs=0.2)
    summary = read(tmp_path)[1]
    assert summary["rows_cut"] + summary["rows_dropped"] == (lengths + 1 > limit).sum() > 0
    assert summary["tokens_max"] == limit
    with pytest.raises(DataError, match="longer than 16 tokens"):
        long = TRAIN.assign(prompt=" dog" * 80 + TRAIN["prompt"])
        train_sft(tiny.policy_folder(), long, HELDOUT, tiny.settings(sft_max_length=16), tmp_path / "none")


def test_rows_that_do_not_end_are_refused():
    model = torch.nn.Linear(1, 1)
    trainer = SimpleNamespace(train_dataset=[0, 1], args=SimpleNamespace(max_length=9), model=model)
    with pytest.raises(CourseError, match="1 of 2 training rows do not end with EOS"):
        rows.check_rows(trainer, 2, [[2, 5, 2], [2, 5, 6]], 2, "EOS")


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        train_sft(tiny.policy_folder(), TRAIN[:0], HELDOUT, tiny.settings(), tmp_path)


def test_a_loss_that_is_not_a_number_stops_the_training():
    watch = callbacks.TrainingWatch(None, None, [], [], None, None)
    with pytest.raises(CourseError, match="nan at step 7: lower the learning rate"):
        watch.on_log(None, SimpleNamespace(global_step=7), None, logs={"loss": math.nan})


def test_length_groups_is_an_order_of_all_rows_that_seed_and_epoch_decide():
    lengths = [length * 7 % 50 for length in range(103)]
    order = samplers.LengthGroups(lengths, step=4, seed=3)
    first = list(order)
    assert sorted(first) == list(range(103)) and first == list(order) and len(order) == 103
    order.set_epoch(1)
    assert list(order) != first
    spread = [
        max(lengths[r] for r in first[i : i + 4]) - min(lengths[r] for r in first[i : i + 4]) for i in range(0, 100, 4)
    ]
    assert sum(spread) / len(spread) < 10  # about 30 in random order


def test_checkpoints_that_are_not_whole_are_passed_over(tmp_path):
    assert checkpoints.last_checkpoint(tmp_path / "none") is None
    for step in (5, 10, 15):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"):
            (folder / name).write_text(json.dumps({"global_step": step}))
    (tmp_path / "checkpoint-15" / "trainer_state.json").write_text('{"global_step": 1')
    (tmp_path / "checkpoint-10" / "optimizer.pt").unlink()
    assert checkpoints.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


@pytest.mark.parametrize(
    ("batch", "accumulate", "processes", "at_once", "expected"),
    [
        (16, 1, 1, 0, (16, 1)),
        (2, 4, 1, 0, (2, 4)),
        (16, 1, 2, 0, (8, 1)),
        (16, 1, 1, 5, (4, 4)),
        (16, 1, 4, 3, (2, 2)),
        (2, 4, 4, 0, (2, 1)),
        (6, 1, 1, 4, (3, 2)),
    ],
)
def test_a_step_keeps_its_rows_however_they_are_shared(batch, accumulate, processes, at_once, expected):
    per_device, summed = samplers.share(batch, accumulate, processes, at_once)
    assert (per_device, summed) == expected and per_device * summed * processes == batch * accumulate


def test_rows_that_cannot_be_shared_evenly_are_refused():
    with pytest.raises(SettingsError, match="16 rows cannot be shared evenly by 3 processes"):
        samplers.share(16, 1, 3)


@pytest.mark.parametrize("train", [sft, dpo])
def test_only_positions_with_a_label_meet_the_head_and_the_losses_are_the_same(train, tmp_path, monkeypatch):
    kernels = pytest.importorskip("trl.kernels", reason="TRL before 1.14 leaves no place to count at")
    head, scored = kernels.ChunkedLogProbFunction.forward, []

    def counted(ctx, hidden, *more):
        scored.append(len(hidden))
        return head(ctx, hidden, *more)

    monkeypatch.setattr(kernels.ChunkedLogProbFunction, "forward", staticmethod(counted))
    logs, heads = [], []
    for name in ("labelled", "all"):
        if name == "all":
            for module in ("sft", "dpo"):
                monkeypatch.setattr(f"helpers.training.{module}.labelled_only", nullcontext)
        train(tmp_path / name, sft_learning_rate=5e-3, dpo_learning_rate=5e-3)
        logs.append(read(tmp_path / name)[0])
        heads.append(sum(scored))
        scored.clear()
    assert heads[0] < 0.7 * heads[1]
    for column in ("loss", "grad_norm"):
        assert logs[0][column].to_numpy() == pytest.approx(logs[1][column].to_numpy(), abs=2e-4, nan_ok=True)
    assert logs[0]["loss"].iloc[-1] < logs[0]["loss"].iloc[0] - 0.01


@pytest.mark.parametrize("train", [sft, dpo])
@pytest.mark.parametrize("asked", [False, True])
def test_activations_are_computed_again_exactly_where_asked(train, asked, tmp_path, monkeypatch):
    run, seen = loop.train, []

    def watched(trainer, *args, **more):
        run(trainer, *args, **more)
        seen.append((trainer.model.is_gradient_checkpointing, getattr(trainer.args, arguments.checkpointing_field())))

    monkeypatch.setattr(loop, "train", watched)
    train(tmp_path, activation_checkpointing=asked, sft_epochs=1.0, dpo_epochs=1.0)
    assert seen == [(asked, asked)]


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_the_field_for_checkpointing_is_the_newest_that_transformers_knows(name, monkeypatch):
    names = dict.fromkeys([name, "gradient_checkpointing"])  # the old name stays beside the new one
    known = dataclasses.make_dataclass("TrainingArguments", [(field, bool, False) for field in names])
    monkeypatch.setattr(arguments, "TrainingArguments", known)
    assert arguments.checkpointing_field() == name


@pytest.mark.parametrize("train", [sft, dpo])
def test_a_split_batch_teaches_the_same(train, tmp_path):
    for at_once in (0, 1):
        train(tmp_path / str(at_once), rows_at_once=at_once, sft_learning_rate=5e-3, dpo_learning_rate=5e-3)
    whole, split = (read(tmp_path / name)[0]["loss"] for name in ("0", "1"))
    assert split.to_numpy() == pytest.approx(whole.to_numpy(), abs=2e-4) and whole.iloc[-1] < whole.iloc[0] - 0.01


@pytest.mark.parametrize("train", [sft, dpo])
def test_a_batch_is_split_where_memory_is_short_and_refused_where_there_is_none(train, tmp_path, monkeypatch):
    here = hardware.this_device("cpu")
    seen = []
    fits = memory.rows_for_this_device
    monkeypatch.setattr(memory, "rows_for_this_device", lambda *given: seen.append(fits(*given)) or seen[-1])
    for name, room in (("plenty", 1e9), ("short", None), ("none", 1e5)):
        if room is None:  # room for one row of two, counted by the planner itself
            shape = sizes.shape_of_model(tiny.policy()[0])
            how = {"bfloat16": False, "gpu": False, "adapter": shape.adapter(4, "all-linear"), "accumulate": 2}
            room = 1.001 * memory.peak(shape, train.__name__, 2, 96, **how)
        small = here._replace(memory=(room + hardware.PROCESS) / hardware.HOST_SHARE)
        monkeypatch.setattr(memory, "this_device", lambda *_, small=small: small)
        if name == "none":
            with pytest.raises(DataError, match="does not fit into cpu"):
                train(tmp_path / name)
        else:
            train(tmp_path / name, sft_epochs=0.5, dpo_epochs=0.5)
    assert seen == [(4, False), (2, False)]
    first, second = (read(tmp_path / name)[0]["loss"].iloc[-1] for name in ("plenty", "short"))
    assert first == pytest.approx(second, abs=2e-4)


@pytest.mark.parametrize("train", [sft, dpo])
def test_rows_longer_than_the_policy_sees_are_refused(train, tmp_path):
    with pytest.raises(SettingsError, match=f"{train.__name__}_max_length = 160, but this policy sees 128 tokens"):
        train(tmp_path, sft_max_length=160, dpo_max_length=160)


def test_what_a_training_took_is_written_beside_it(tmp_path):
    dpo(tmp_path)
    timing = json.loads((tmp_path / "timing.json").read_text())
    summary = read(tmp_path)[1]
    assert timing["steps"] == summary["steps"] - 1 and timing["device"].startswith("cpu")  # the first one is warm-up
    assert 0 < timing["seconds_a_step"] * timing["steps"] < timing["seconds"]
    assert timing["tokens_a_sequence"] == summary["tokens_mean"] and timing["peak_memory_gb"] > 0.1
    a_step = 2 * 22 * 2 * timing["tokens_a_sequence"] / summary["steps"]  # passes, pairs, sequences of a pair
    assert timing["tokens_a_second"] == pytest.approx(a_step / timing["seconds_a_step"], rel=0.02)
