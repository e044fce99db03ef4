"""The planner: sizes as the models have them, memory as autograd keeps it, and plans that fit where they say so."""

import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import OPTConfig, OPTForCausalLM

from helpers.core.errors import DataError, SettingsError
from helpers.core.files import read_json
from helpers.core.methods import METHODS
from helpers.core.profiles import DATA_CACHE, DISK_GB
from helpers.core.settings import resolve
from helpers.data import pairs
from helpers.models import hardware, loading, sizes
from helpers.models.sizes import shape_of_model
from helpers.planning import doctor, lengths, throughput
from helpers.planning.plan import across_cards, plan
from helpers.training import dpo, memory
from helpers.training.memory import rows_for_device

OPT, REWARD_MODEL = sizes.PUBLISHED


@pytest.fixture(scope="module")
def opt() -> sizes.Shape:
    return sizes.shape_of(OPT)


@pytest.fixture(scope="module")
def deberta() -> sizes.Shape:
    return sizes.shape_of(REWARD_MODEL)


def test_the_published_models_have_the_published_sizes(opt, deberta):
    assert opt.parameters == 331_196_416
    assert opt.adapter(8, "q_v") == 786_432 and opt.adapter(16, "all-linear") == 7_127_040
    assert 434e6 < deberta.parameters < 436e6


def test_a_shape_counts_what_the_model_has(tmp_path):
    model, _ = tiny.policy()
    shape = sizes.shape_of(tiny.policy_folder())
    assert shape == sizes.shape_of_model(model)
    assert shape.parameters == loading.count_parameters(model)[1]
    matrices = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert shape.inside == sum(m.weight.numel() for m in matrices)  # the tied head multiplies each token too
    with pytest.raises(DataError, match="no config of model"):
        sizes.shape_of(tmp_path)


@pytest.mark.parametrize("targets", ["q_v", "all-linear"])
def test_an_adapter_has_as_many_weights_as_peft_makes(targets, tmp_path):
    pairs = tiny.made_up(8)
    settings = tiny.settings(lora_targets=targets, dpo_epochs=0.1)
    dpo.train_preferences(tiny.policy_folder(), pairs, pairs, settings, tmp_path)
    summary = read_json(tmp_path / "summary.json")
    shape = sizes.shape_of(tiny.policy_folder())
    assert shape.adapter(settings.lora_rank, targets) == summary["trainable_parameters"]
    assert shape.parameters + shape.adapter(settings.lora_rank, targets) == summary["parameters"]


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_activations_are_what_autograd_keeps(bfloat16):
    """On other widths than those that were measured: every saved tensor of one forward pass, counted once."""
    sizes = {"hidden_size": 256, "ffn_dim": 1024, "num_attention_heads": 4, "word_embed_proj_dim": 128}
    config = OPTConfig(vocab_size=700, num_hidden_layers=3, do_layer_norm_before=False, dropout=0.0, **sizes)
    model = OPTForCausalLM(config)
    ids = torch.randint(4, 600, (4, 128))
    own, kept = {p.data_ptr() for p in model.parameters()}, {}

    def count(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    watched = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
    with watched, torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        model.model.decoder(input_ids=ids, attention_mask=torch.ones_like(ids))
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    shape = shape_of_model(model)
    head = 2 * model.lm_head.weight.numel() if bfloat16 else 0  # the head took no part
    planned = memory.activations(shape, "sft", ids.numel(), bfloat16=bfloat16, checkpointing=False) - head
    assert planned == pytest.approx(found, rel=0.1)


@given(st.sampled_from(["sft", "dpo"]), st.integers(1, 5), st.integers(16, 1024), st.booleans(), st.floats(2e9, 9e10))
def test_rows_that_fit_are_the_most_that_fit(kind, power, length, bfloat16, room):
    shape, rows = sizes.Shape(331_196_416, 328_777_728, 24, 1024, 50_272, 445_440, 98_304), 2**power
    how = {"bfloat16": bfloat16, "checkpointing": False, "adapter": shape.adapter(16, "all-linear")}
    n = memory.most_rows(shape, kind, room, rows, length, **how)
    if n:
        assert rows % n == 0 and memory.peak(shape, kind, n, length, accumulate=rows // n, **how) <= room
    if n < rows:
        more = 2 * n or 1
        assert memory.peak(shape, kind, more, length, accumulate=rows // more, **how) > room


def test_more_rows_take_more_memory_and_checkpointing_less(opt):
    def peak(kind, rows, **how):
        return memory.peak(opt, kind, rows, 512, bfloat16=True, adapter=7_127_040, **how)

    for kind in ("sft", "dpo"):
        sizes = [peak(kind, rows) for rows in (4, 8, 16, 32)]
        assert sizes == sorted(sizes) and len(set(sizes)) == 4
        assert peak(kind, 16, checkpointing=True) < 0.5 * peak(kind, 16)
    assert peak("sft", 1) >= 16 * opt.parameters  # weight, gradient and two moments in float32


def test_a_plan_for_16_gb_exists_for_every_stage_and_recipe():
    for recipe in ("recommended", "published"):
        settings, card = resolve(profile="paper", recipe=recipe).settings, hardware.device_called("16GB")
        first = plan(settings, card)
        assert first.fits and first.download > 2e9
        assert all(stage.memory <= card.room and not stage.settings for stage in first.stages)


def test_what_the_doctor_and_a_run_ask_for_is_enough():
    settings = resolve(profile="paper").settings
    found = plan(settings, hardware.device_called(f"{doctor.GPU_MEMORY}GB"))
    assert found.fits and not plan(settings, hardware.device_called(f"{doctor.GPU_MEMORY - 3}GB")).fits
    # Downloads lie on the disk twice where they are pickles: as they came and as safetensors.
    assert found.disk + 2 * found.download < 1e9 * DISK_GB["paper"]


def test_a_small_card_gets_checkpointing_and_a_smaller_one_is_refused(opt):
    settings = resolve(profile="paper").settings

    def fitted(gigabytes):
        return rows_for_device(settings, METHODS["sft"], opt, hardware.device_called(f"{gigabytes} GB"))

    assert fitted(60) == (16, False)
    rows, checkpointing = fitted(7.2)
    assert rows >= 1 and checkpointing
    assert fitted(4) == (0, True)
    assert not plan(settings, hardware.device_called("4 GB")).fits


def test_the_published_time_of_the_authors_is_in_reach_of_the_formula():
    """Their SFT logged 1.727e17 operations (6 a weight and token); ours counts attention too, padding not."""
    settings = resolve(profile="paper", recipe="published").settings
    sft = plan(settings, hardware.CARDS["A100 40GB"]).stages[0]
    work = sft.tokens * 3 * throughput.forward_flops(sizes.shape_of(OPT), sft.tokens / (2 * 160_800))
    assert 0.7 < work / 1.727e17 < 1.3


def test_lengths_are_those_of_the_rows():
    settings = resolve().settings
    found = lengths.lengths_of(settings)
    assert found.pairs == settings.train_pairs == 1500
    tokenizer = loading.load_tokenizer(DATA_CACHE / "policy")
    rows = pairs.load_pairs(DATA_CACHE / "mini_hh", ["harmless-base", "helpful-base"], "train").pairs
    real = pd.Series([len(ids) + 1 for ids in tokenizer(list(rows["prompt"] + rows["chosen"]))["input_ids"]]).mean()
    assert found.sft == pytest.approx(real, rel=0.05) and found.dpo > 1.5 * found.sft


def test_precision_is_planned_as_it_is_trained():
    paper, mini = resolve(profile="paper").settings, resolve().settings
    old = hardware.CARDS["T4"]
    new = hardware.CARDS["A100 40GB"]
    assert hardware.precision_on(paper, new) == "bfloat16" and hardware.precision_on(paper, old) == "float32"
    computer = hardware.Device("cpu, 2 threads", 24e9, gpu=False)
    assert hardware.precision_on(paper, computer) == "bfloat16" and hardware.precision_on(mini, computer) == "float32"
    assert hardware.precision_on(resolve(precision="float32").settings, new) == "float32"
    assert hardware.wants_bfloat16(mini) == (hardware.precision_on(mini, hardware.this_device()) == "bfloat16")
    assert hardware.wants_bfloat16(paper) == (hardware.precision_on(paper, hardware.this_device()) == "bfloat16")


@pytest.mark.parametrize(
    ("name", "found"),
    [("T4", "T4"), ("a100-80gb", "A100 80GB"), ("4090", "RTX 4090"), ("rtx 3090", "RTX 3090"), ("h200", "H200")],
)
def test_cards_are_found_by_name(name, found):
    assert hardware.device_called(name) == hardware.CARDS[found]


def test_a_gpu_is_found_by_its_memory_and_nonsense_is_refused():
    assert hardware.device_called("16GB").memory == hardware.device_called("16 gib").memory == 16e9
    with pytest.raises(SettingsError, match="neither a memory size, such as 16GB, nor one of T4"):
        hardware.device_called("a big one")


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("Tesla T4", "T4"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA L4", None),
    ],
)
def test_torchs_names_lead_to_data_sheets(name, card):
    assert hardware.card_of(name) == (hardware.CARDS[card] if card else None)


def test_what_was_measured_counts_before_the_data_sheet(tmp_path, monkeypatch, opt):
    monkeypatch.setattr(throughput, "RATES", tmp_path / "rates.json")
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path / "results"))
    card = hardware.CARDS["H100"]
    assumed, source = throughput.rate(card, "sft", "bfloat16", opt)
    assert assumed == throughput.ASSUMED_SHARE * card.half and "not measured" in source
    record = {
        "date": "2026-11-25",
        "device": "NVIDIA H100 80GB HBM3",
        "kind": "sft",
        "precision": "bfloat16",
        "flops_a_second": 5e14,
    }
    near, far = ({**record, "inside": n, "flops_a_second": f} for n, f in ((opt.inside, 5e14), (2_000_000, 1e12)))
    throughput.keep_rates([far, near], tmp_path / "rates.json")
    assert throughput.rate(card, "sft", "bfloat16", opt)[0] == 5e14
    throughput.keep_rates([near | {"flops_a_second": 6e14}], tmp_path / "rates.json")
    assert throughput.rate(card, "sft", "bfloat16", opt)[0] == 6e14
    assert throughput.rate(hardware.device_called("16GB"), "sft", "bfloat16", opt) is None
    assert throughput.rate(hardware.CARDS["T4"], "sft", "float32", opt)[1].endswith("not measured")


def test_every_card_gets_a_plan():
    settings = resolve(profile="paper").settings
    plans = across_cards(settings)
    assert [p.device.name for p in plans] == list(hardware.CARDS) and all(p.fits for p in plans)
    assert all(p.seconds > 0 for p in plans)
