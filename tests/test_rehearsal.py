"""The rehearsal: folders as the hub has them, and every stage of profile paper on them, here at a small size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.core.errors import DataError
from helpers.core.files import read_json
from helpers.core.profiles import DATA_CACHE
from helpers.core.settings import resolve
from helpers.data import pairs
from helpers.models import hardware, loading, sizes
from helpers.planning import lengths, plan, rehearsal, throughput

OPT, REWARD_MODEL = sizes.PUBLISHED
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The three folders, as the real ones in everything but size."""
    own = len(loading.load_tokenizer(DATA_CACHE / "policy")) + 8  # OPT-350M has more rows than its tokenizer too
    known = {
        OPT: sizes.PUBLISHED[OPT] | SMALL | {"ffn_dim": 128, "word_embed_proj_dim": 32, "vocab_size": own},
        REWARD_MODEL: sizes.PUBLISHED[REWARD_MODEL]
        | SMALL
        | {"intermediate_size": 128, "vocab_size": own, "pooler_hidden_size": 64},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizes, "PUBLISHED", known)
        yield rehearsal.write_folders(tmp_path_factory.mktemp("rehearsal"), pairs=120)


def test_the_folders_look_like_the_hubs(places):
    policy, reward_model = ({p.name for p in (Path(places[what])).iterdir()} for what in ("policy", "reward_model"))
    assert {"config.json", "pytorch_model.bin", "vocab.json", "merges.txt"} <= policy
    assert not {"model.safetensors", "tokenizer.json"} & policy
    assert {"config.json", "pytorch_model.bin", "tokenizer.json"} <= reward_model
    assert "model.safetensors" not in reward_model
    assert read_json(Path(places["policy"]) / "config.json")["torch_dtype"] == "float16"
    weights = torch.load(Path(places["policy"]) / "pytorch_model.bin", weights_only=True)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


def test_the_policy_loads_as_the_real_one_would(places, results):
    model = loading.load_policy(places["policy"], device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32} and model.config.do_layer_norm_before is False
    text = "\n\nHuman: How do I keep basil alive?\n\nAssistant:"
    ids = loading.load_tokenizer(places["policy"])(text)["input_ids"]
    assert ids[0] == 2 and ids == loading.load_tokenizer(DATA_CACHE / "policy")(text)["input_ids"]


def test_a_vocabulary_of_your_own_is_taken_and_half_of_one_refused(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(), target.mkdir()
    rehearsal.write_tokenizer(source, None)
    rehearsal.write_tokenizer(target, source)
    assert (target / "merges.txt").read_bytes() == (source / "merges.txt").read_bytes()
    (source / "merges.txt").unlink()
    with pytest.raises(DataError, match="has no merges"):
        rehearsal.write_tokenizer(target, source)


def test_what_is_there_is_not_made_again(places):
    out = Path(places["policy"]).parent
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert rehearsal.write_folders(out, pairs=120) == places
    assert {path: path.stat().st_mtime_ns for path in before} == before
    rehearsal.write_folders(out, pairs=130)  # other dialogues, the same models
    changed = {path.parent.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed <= {"harmless-base", "helpful-base", "hh-rlhf"} and changed
    rehearsal.write_folders(out, pairs=120)


def test_dialogues_are_as_long_as_those_of_hh(tmp_path):
    rehearsal.write_dialogues(tmp_path, 1000)
    rows = pairs.load_pairs(tmp_path, ["harmless-base"], "train").pairs
    assert len(rows) == 500 and not rows["prompt"].map(lambda p: p.count("\n\nHuman:")).eq(1).all()
    words = rows["prompt"].str.split().str.len() / rehearsal.WORDS_A_TOKEN
    wanted = read_json(lengths.MEASURED)["subsets"]["harmless-base"]["prompt"]
    assert words.mean() == pytest.approx(np.mean(wanted), rel=0.25)
    assert words.quantile(0.9) == pytest.approx(wanted[90], rel=0.25)


def test_a_rehearsal_has_as_many_steps_as_were_asked_for(places):
    for recipe in ("recommended", "published"):
        given = rehearsal.settings_of(places, 3, {"recipe": recipe})
        s = resolve(**given).settings
        assert s.profile == "paper" and s.train_pairs == 3 * s.sft_batch_size * s.gradient_accumulation
        assert s.sft_epochs == s.dpo_epochs == 1.0


@pytest.mark.slow
def test_every_stage_runs_and_the_planner_learns_from_it(places, results, monkeypatch):
    given = rehearsal.settings_of(
        places, 2, {"device": "cpu", "max_new_tokens": 4, "sft_batch_size": 4, "dpo_batch_size": 4}
    )
    done = [rehearsal._stage(name, given) for name in rehearsal.STAGES]
    assert [one.name for one in done] == list(rehearsal.STAGES) and all(one.memory > 1e8 for one in done)
    for one in done[1:4]:
        assert one.counted["steps"] == 2 and one.counted["tokens_a_second"] > 0
    settings = resolve(**given).settings
    found = rehearsal.records(settings, done)
    assert {record["kind"] for record in found} == {"matrix", "sft", "dpo", "generate", "score"}
    throughput.keep_rates(found, results / "rates.json")
    assert json.loads((results / "rates.json").read_text())["measured"]
    planned = plan.plan(settings, hardware.this_device("cpu"))
    assert all("measured on cpu" in stage.source for stage in planned.stages) and planned.seconds > 0
    # On the device and the sizes that it learned from, the plan's steps take what they took.
    sft = done[1].counted
    assert planned.stages[0].seconds > 0.3 * sft["steps"] * sft["seconds_a_step"]
