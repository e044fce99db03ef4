"""Weights and tokenizers in a folder: pickles made safe, damage named, code refused."""

import json
import pickle
from pathlib import Path

import pytest
import tiny
import torch
from tiny_repositories import OPT, OTHER, PINNED, TEXT, Bomb, converted, folder_of, half, one_line, saved

from helpers.core.errors import StageError
from helpers.models import checkpoint_files, loading, small_models


@pytest.mark.parametrize("form", ["zip", "legacy", "without tied name", "without prefix", "sharded"])
def test_a_folder_with_pickles_gives_the_same_weights(form, opt_published, results, tmp_path):
    tensors = half(tiny.policy()[0])
    files = dict(opt_published)
    if form == "legacy":
        files["pytorch_model.bin"] = saved(tensors, tmp_path, _use_new_zipfile_serialization=False)
    elif form == "without tied name":
        files["pytorch_model.bin"] = saved({n: v for n, v in tensors.items() if n != "lm_head.weight"}, tmp_path)
    elif form == "without prefix":  # as early OPT checkpoints name them
        bare = {name.removeprefix("model."): value for name, value in tensors.items() if name != "lm_head.weight"}
        files["pytorch_model.bin"] = saved(bare, tmp_path)
    elif form == "sharded":
        names = sorted(tensors)
        shards = {f"pytorch_model-0000{i}-of-00002.bin": names[i - 1 :: 2] for i in (1, 2)}
        files |= {shard: saved({n: tensors[n] for n in part}, tmp_path) for shard, part in shards.items()}
        index = {"metadata": {}, "weight_map": {n: shard for shard, part in shards.items() for n in part}}
        files["pytorch_model.bin.index.json"] = json.dumps(index).encode()
        del files["pytorch_model.bin"]
    folder = folder_of(files, tmp_path / "model")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    policy = loading.load_policy(folder, device="cpu")
    for name, value in tensors.items():
        assert torch.equal(policy.state_dict()[name], value.float()), name
    assert policy.lm_head.weight is policy.model.decoder.embed_tokens.weight
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}, "the reader's folder changed"
    assert len(converted(results)) == 1
    if form == "sharded":
        (folder / "pytorch_model-00002-of-00002.bin").unlink()
        assert "lacks pytorch_model-00002-of-00002.bin" in one_line(loading.load_policy, folder)


def test_equal_files_share_one_copy_and_other_files_get_their_own(server, opt_published, results, tmp_path):
    server.publish(OPT, PINNED, opt_published)
    here = folder_of(opt_published, tmp_path / "model")
    assert checkpoint_files.model_folder(OPT) == checkpoint_files.model_folder(here)
    other = half(small_models.new_policy(tiny.policy()[1], seed=1, hidden=64, layers=2, positions=128))
    (here / "pytorch_model.bin").write_bytes(saved(other, tmp_path))
    policy = loading.load_policy(here, device="cpu")
    assert torch.equal(policy.lm_head.weight, other["lm_head.weight"].float())
    assert len(converted(results)) == 2
    (here / "config.json").write_text(
        json.dumps(json.loads(opt_published["config.json"]) | {"activation_function": "gelu"})
    )
    assert loading.load_policy(here, device="cpu").config.activation_function == "gelu"


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "newer pickle", "beside weights"])
def test_code_in_a_pickle_is_refused_and_not_run(form, opt_published, results, tmp_path):
    marker = tmp_path / "exploded"
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists(), "the bomb would not go off anyway"
    marker.rmdir()
    thing = half(tiny.policy()[0]) | {"x": Bomb(marker)} if form == "beside weights" else Bomb(marker)
    if "pickle" in form:
        bomb = pickle.dumps(thing, protocol=4 if "newer" in form else 2)
    else:
        bomb = saved(thing, tmp_path, _use_new_zipfile_serialization=form != "legacy")
    folder = folder_of(opt_published | {"pytorch_model.bin": bomb}, tmp_path / "model")
    text = one_line(loading.load_policy, folder)
    if form == "newer pickle":  # its very instructions are unknown to the reader of weights
        assert "damaged pytorch_model.bin (it holds something other than weights)" in text
    else:
        assert "holds code in pytorch_model.bin (GLOBAL posix.mkdir), which is never run: take another model" in text
    assert not marker.exists() and not list((results / ".models").glob("*/*"))


def test_a_torchscript_archive_and_a_pickle_without_tensors_are_refused(opt_published, results, tmp_path):
    class Doubling(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    folder = folder_of(opt_published, tmp_path / "model")
    torch.jit.save(torch.jit.trace(Doubling(), torch.ones(2)), folder / "pytorch_model.bin")
    assert "holds code in pytorch_model.bin (TorchScript)" in one_line(loading.load_policy, folder)
    torch.save({"epoch": 3}, folder / "pytorch_model.bin")
    assert "has no tensor in pytorch_model.bin" in one_line(loading.load_policy, folder)


def test_remote_code_is_neither_downloaded_nor_run(server, opt_published, tmp_path):
    marker = tmp_path / "exploded"
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Own"}
    config = json.loads(opt_published["config.json"]) | {"model_type": "own", "auto_map": own}
    code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n".encode()
    files = opt_published | {"config.json": json.dumps(config).encode(), "own.py": code}
    server.publish("someone/own", OTHER, files)
    assert "'someone/own' cannot be loaded" in one_line(loading.load_policy, "someone/own")
    loading.save_model(
        *tiny.policy(), tmp_path / "model"
    )  # beside safetensors, which are not copied away from the code
    text = one_line(loading.load_policy, folder_of(files, tmp_path / "model"))
    assert "cannot be loaded" in text and "custom code" in text
    assert not marker.exists() and "own.py" not in server.files_asked()


def test_a_conversion_that_was_interrupted_is_done_again(opt_published, results, tmp_path, monkeypatch):
    import safetensors.torch

    folder = folder_of(opt_published, tmp_path / "model")

    def stopped(tensors, path, metadata=None):
        Path(path).write_bytes(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", stopped)
        with pytest.raises(KeyboardInterrupt):
            loading.load_policy(folder, device="cpu")
        assert converted(results) == []
    loading.load_policy(folder, device="cpu")
    (made,) = converted(results)
    whole = (made / "model.safetensors").read_bytes()
    leftover = made.with_name(f".{made.name}.partial")  # what a killed process leaves
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half a file")
    (made / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    policy = loading.load_policy(folder, device="cpu")
    assert torch.equal(policy.lm_head.weight, half(tiny.policy()[0])["lm_head.weight"].float())
    assert (made / "model.safetensors").read_bytes() == whole and not leftover.exists()


def test_a_full_disk_and_a_closed_folder_are_one_line(server, opt_published, results, cache, tmp_path, monkeypatch):
    import safetensors.torch

    folder = folder_of(opt_published, tmp_path / "model")
    with monkeypatch.context() as patch:
        full = safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
        patch.setattr(safetensors.torch, "save_file", lambda *_, **__: (_ for _ in ()).throw(full))
        assert "the disk is full" in one_line(loading.load_policy, folder, kind=StageError)
    with monkeypatch.context() as patch:
        patch.setenv("COURSE_RESULTS", str(folder / "config.json"))
        assert "or set COURSE_RESULTS" in one_line(loading.load_policy, folder, kind=StageError)
    server.publish(OPT, PINNED, opt_published)
    cache.write_text("a file where the cache should be")
    text = one_line(loading.load_policy, OPT, kind=StageError)
    assert text.startswith("downloading facebook/opt-350m: ") and text.endswith("or set HF_HOME")


def test_weights_of_another_architecture_are_refused(opt_published, reward_model_published, results, tmp_path):
    text = one_line(
        loading.load_policy,
        folder_of(
            opt_published
            | {
                "pytorch_model.bin": saved(
                    {"model.decoder.embed_tokens.weight": half(tiny.policy()[0])["lm_head.weight"]}, tmp_path
                )
            },
            tmp_path / "model",
        ),
    )
    assert "has no weights for model.decoder." in text and "OPTForCausalLM" in text


def test_vocabulary_and_merges_give_opts_ids_with_and_without_a_word_on_special_tokens(
    opt_published, results, tmp_path
):
    for left_out in ((), ("tokenizer_config.json",), ("tokenizer_config.json", "special_tokens_map.json")):
        files = {name: content for name, content in opt_published.items() if name not in left_out}
        tokenizer = loading.load_tokenizer(folder_of(files, tmp_path / f"{len(left_out)} left out"))
        assert tokenizer(TEXT)["input_ids"] == tiny.policy()[1](TEXT)["input_ids"]
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2, 1)
        loading.save_model(tiny.policy()[0], tokenizer, tmp_path / "again")
        assert loading.load_tokenizer(tmp_path / "again")(TEXT)["input_ids"] == tiny.policy()[1](TEXT)["input_ids"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("state", ["half", "empty", "pointer"])
def test_damaged_weights_in_a_folder_are_named(name, state, opt_published, results, tmp_path):
    folder = folder_of(opt_published, tmp_path / "model")
    if name == "model.safetensors":
        loading.save_model(*tiny.policy(), folder)
    content = (folder / name).read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    (folder / name).write_bytes({"half": content[: len(content) // 2], "empty": b"", "pointer": pointer}[state])
    text = one_line(loading.load_policy, folder)
    assert f"{'git-lfs pointer as' if state == 'pointer' else 'damaged'} {name}" in text and str(folder) in text
    assert not converted(results)


def test_a_damaged_tokenizer_or_config_in_a_folder_is_one_line(opt_published, results, tmp_path):
    folder = folder_of(opt_published, tmp_path / "model")
    (folder / "tokenizer.json").write_text('{"version": "1.0", "mod')
    assert "cannot be loaded" in one_line(loading.load_tokenizer, folder)
    (folder / "config.json").write_bytes(opt_published["config.json"][:50])
    assert "cannot be loaded" in one_line(loading.load_policy, folder)
