"""Models and datasets from the hub, and weights that come as pickles: against an imitation of the hub and its cache.

What is published here under the real names is tiny: an OPT and a DeBERTa of a few thousand weights, as `.bin` files in
float16, beside the traps that the real repositories hold too.
"""

import gzip
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
import time
import zlib
from pathlib import Path

import hub_imitation
import pytest
import tiny
import torch
from hub_imitation import connect, etag, fill_cache, go_offline

from helpers import hub, models, preferences
from helpers.errors import DataError, StageError

ROOT = Path(__file__).resolve().parent.parent
OPT, JUDGE, HH = "facebook/opt-350m", "OpenAssistant/reward-model-deberta-v3-large-v2", "Anthropic/hh-rlhf"
PINNED = models.REVISIONS[OPT]
OTHER = "0123456789abcdef0123456789abcdef01234567"
TRAPS = {"flax_model.msgpack": b"flax", "tf_model.h5": b"tensorflow", "README.md": b"# a model"}
TEXT = "\n\nHuman: Is your dog near the river?\n\nAssistant: Yes, the happy dog sleeps."
OFFICIAL_OPT = ROOT.parent / "shared" / "opt-tokenizer"


class Bomb:
    """Unpickling it makes a folder: a malicious model would do worse."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def saved(thing, folder: Path, **how) -> bytes:
    torch.save(thing, folder / "saved", **how)
    return (folder / "saved").read_bytes()


def half(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A model's weights in float16; names that share memory go on sharing it."""
    seen = {}
    return {name: seen.setdefault(value.data_ptr(), value.half()) for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def opt(tmp_path_factory) -> dict[str, bytes]:
    """The files of a repository like opt-350m's: float16, pytorch_model.bin, vocab.json and merges.txt."""
    folder = tmp_path_factory.mktemp("opt")
    model, tokenizer = tiny.policy()
    config = model.config.to_dict() | {"torch_dtype": "float16", "prefix": "</s>"}
    config.pop("dtype", None)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    tokens = {name: {"content": text, **token} for name, text in models.OPT_TOKENS.items()}
    about = {name: described | {"__type": "AddedToken"} for name, described in tokens.items()}
    about |= {"add_bos_token": True, "errors": "replace", "tokenizer_class": "GPT2Tokenizer"}
    texts = {
        "config.json": json.dumps(config),
        "generation_config.json": json.dumps({"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}),
        "tokenizer_config.json": json.dumps(about),
        "special_tokens_map.json": json.dumps(tokens),
        "vocab.json": json.dumps(bpe["vocab"]),
        "merges.txt": "\n".join(["#version: 0.2", *map(" ".join, bpe["merges"])]) + "\n",
    }
    files = {name: text.encode() for name, text in texts.items()}
    return files | TRAPS | {"pytorch_model.bin": saved(half(model), folder)}


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> dict[str, bytes]:
    """The files of a repository like the reward model's: tokenizer.json, and a pickle of training arguments."""
    folder = tmp_path_factory.mktemp("judge")
    model, tokenizer = tiny.judge()
    models.save_model(model, tokenizer, folder)
    (folder / "model.safetensors").unlink()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads(files["config.json"]) | {"torch_dtype": "float16"}
    config.pop("dtype", None)
    bombs = {"training_args.bin": pickle.dumps(Bomb(folder / "exploded"))}
    return files | bombs | {"config.json": json.dumps(config).encode(), "pytorch_model.bin": saved(half(model), folder)}


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "hub-cache"


@pytest.fixture
def server(monkeypatch, cache, results):
    """The imitation, which this process takes for the hub; cache and results folder are empty."""
    with hub_imitation.running() as running:
        connect(monkeypatch, running, cache)
        yield running


def folder_of(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def one_line(call, *args, kind=DataError) -> str:
    """The message of the error that a call ends with; it must be a single line and come without a long wait."""
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        call(*args)
    text = str(caught.value)
    assert type(caught.value) is kind, "a notebook shows the name"
    assert "\n" not in text and len(text) < 600
    assert "Traceback" not in text and time.monotonic() - start < 8
    return text


def converted(results: Path) -> list[Path]:
    return sorted((results / ".models").glob("[!.]*"))


# --------------------------------------------------------------------------------------------------- the first load


def test_a_policy_is_loaded_from_the_hub_as_it_is_published(server, opt, results):
    server.publish(OPT, PINNED, opt)
    server.publish(OPT, OTHER, {"config.json": b"{}"})  # the newest commit is not the pinned one
    policy, tokenizer = models.load_policy(OPT, device="cpu"), models.load_tokenizer(OPT)
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}
    for name, value in half(tiny.policy()[0]).items():
        assert torch.equal(policy.state_dict()[name], value.float()), name
    assert policy.lm_head.weight is policy.model.decoder.embed_tokens.weight
    ids = tokenizer(TEXT)["input_ids"]
    assert ids == tiny.policy()[1](TEXT)["input_ids"] and ids[0] == 2 and tokenizer.pad_token_id == 1
    assert server.files_asked() == set(opt) - set(TRAPS)
    assert not [line for line in server.asked if OTHER in line or "/main" in line]


def test_a_reward_model_is_loaded_from_the_hub_as_it_is_published(server, judge, tmp_path):
    server.publish(JUDGE, models.REVISIONS[JUDGE], judge)
    model, tokenizer = models.load_reward_model(JUDGE, "cpu")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    for name, value in half(tiny.judge()[0]).items():
        assert torch.equal(model.state_dict()[name], value.float()), name
    assert tokenizer(TEXT, " Yes.")["input_ids"] == tiny.judge()[1](TEXT, " Yes.")["input_ids"]
    assert server.files_asked() == set(judge) - {"training_args.bin"}


def test_the_second_load_asks_nobody_and_converts_nothing(server, opt, results, monkeypatch, capfd):
    server.publish(OPT, PINNED, opt)
    models.load_policy(OPT, device="cpu")
    out, err = capfd.readouterr()
    downloading, converting = out.splitlines()
    assert re.fullmatch(r"downloading model 'facebook/opt-350m' \(revision 08ab08c\), 0\.\d MB", downloading)
    assert converting == "facebook/opt-350m: converting the weights to safetensors, once" and err == ""
    (made,) = converted(results)
    assert sorted(path.name for path in made.iterdir()) == [
        *("config.json", "generation_config.json", "manifest.json", "model.safetensors")
    ]
    server.asked.clear()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle is opened again"))
    models.load_policy(OPT, device="cpu")
    models.load_tokenizer(OPT)
    assert server.asked == [] and capfd.readouterr() == ("", "")


def test_a_tokenizer_alone_downloads_no_weights(server, opt, results):
    server.publish(OPT, PINNED, opt)
    models.load_tokenizer(OPT)
    assert "pytorch_model.bin" not in server.files_asked() and not converted(results)
    models.load_policy(OPT, device="cpu")
    assert "pytorch_model.bin" in server.files_asked()


def test_safetensors_are_preferred_to_pickles(server, opt, results, tmp_path):
    models.save_model(*tiny.policy(), tmp_path / "safe")
    safe = (tmp_path / "safe" / "model.safetensors").read_bytes()
    server.publish("someone/both", OTHER, opt | {"model.safetensors": safe})
    models.load_policy("someone/both", device="cpu")
    assert "model.safetensors" in server.files_asked() and "pytorch_model.bin" not in server.files_asked()
    assert not converted(results)


def test_the_environment_alone_leads_to_the_hub(opt, dialogues, tmp_path):
    """Nothing patched: a process of its own, told by the variables that users set."""
    program = (
        "from helpers import hub, preferences\n"
        f"pairs = preferences.load_pairs({HH!r}, ['harmless-base'], 'train').pairs\n"
        f"print(len(pairs), sorted(path.name for path in hub.model_folder({OPT!r}, {PINNED!r}).iterdir()))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(tmp_path / "home"), "COURSE_RESULTS": str(tmp_path / "results")}
    models.save_model(*tiny.policy(), tmp_path)
    files = opt | {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()}
    with hub_imitation.running() as server:
        server.publish(OPT, PINNED, files)
        server.publish(HH, preferences.HUB_REVISIONS[HH], dialogues, kind="dataset")
        environment |= {"HF_ENDPOINT": server.url, "NO_PROXY": "127.0.0.1,localhost"}
        told = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=ROOT
        )
    assert told.returncode == 0, told.stderr[-2000:]
    wanted = set(files) - set(TRAPS) - {"pytorch_model.bin"}
    assert told.stdout.splitlines()[-1] == f"2 {sorted(wanted)}" and told.stdout.count("downloading") == 2
    assert server.files_asked() == wanted | {"train.jsonl.gz"}


# ------------------------------------------------------------------------------------------------ pickles made safe


@pytest.mark.parametrize("form", ["zip", "legacy", "without tied name", "without prefix", "sharded"])
def test_a_folder_with_pickles_gives_the_same_weights(form, opt, results, tmp_path):
    tensors = half(tiny.policy()[0])
    files = dict(opt)
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
    policy = models.load_policy(folder, device="cpu")
    for name, value in tensors.items():
        assert torch.equal(policy.state_dict()[name], value.float()), name
    assert policy.lm_head.weight is policy.model.decoder.embed_tokens.weight
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}, "the reader's folder changed"
    assert len(converted(results)) == 1
    if form == "sharded":
        (folder / "pytorch_model-00002-of-00002.bin").unlink()
        assert "lacks pytorch_model-00002-of-00002.bin" in one_line(models.load_policy, folder)


def test_equal_files_share_one_copy_and_other_files_get_their_own(server, opt, results, tmp_path):
    server.publish(OPT, PINNED, opt)
    here = folder_of(opt, tmp_path / "model")
    assert hub.model_folder(OPT, PINNED) == hub.model_folder(here)
    other = half(models.new_policy(tiny.policy()[1], seed=1, hidden=64, layers=2, positions=128))
    (here / "pytorch_model.bin").write_bytes(saved(other, tmp_path))
    policy = models.load_policy(here, device="cpu")
    assert torch.equal(policy.lm_head.weight, other["lm_head.weight"].float())
    assert len(converted(results)) == 2
    (here / "config.json").write_text(json.dumps(json.loads(opt["config.json"]) | {"activation_function": "gelu"}))
    assert models.load_policy(here, device="cpu").config.activation_function == "gelu"


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "newer pickle", "beside weights"])
def test_code_in_a_pickle_is_refused_and_not_run(form, opt, results, tmp_path):
    marker = tmp_path / "exploded"
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists(), "the bomb would not go off anyway"
    marker.rmdir()
    thing = half(tiny.policy()[0]) | {"x": Bomb(marker)} if form == "beside weights" else Bomb(marker)
    if "pickle" in form:
        bomb = pickle.dumps(thing, protocol=4 if "newer" in form else 2)
    else:
        bomb = saved(thing, tmp_path, _use_new_zipfile_serialization=form != "legacy")
    folder = folder_of(opt | {"pytorch_model.bin": bomb}, tmp_path / "model")
    text = one_line(models.load_policy, folder)
    if form == "newer pickle":  # its very instructions are unknown to the reader of weights
        assert "damaged pytorch_model.bin (it holds something other than weights)" in text
    else:
        assert "holds code in pytorch_model.bin (GLOBAL posix.mkdir), which is never run: take another model" in text
    assert not marker.exists() and not list((results / ".models").glob("*/*"))


def test_a_torchscript_archive_and_a_pickle_without_tensors_are_refused(opt, results, tmp_path):
    class Doubling(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    folder = folder_of(opt, tmp_path / "model")
    torch.jit.save(torch.jit.trace(Doubling(), torch.ones(2)), folder / "pytorch_model.bin")
    assert "holds code in pytorch_model.bin (TorchScript)" in one_line(models.load_policy, folder)
    torch.save({"epoch": 3}, folder / "pytorch_model.bin")
    assert "has no tensor in pytorch_model.bin" in one_line(models.load_policy, folder)


def test_remote_code_is_neither_downloaded_nor_run(server, opt, tmp_path):
    marker = tmp_path / "exploded"
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Own"}
    config = json.loads(opt["config.json"]) | {"model_type": "own", "auto_map": own}
    code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n".encode()
    files = opt | {"config.json": json.dumps(config).encode(), "own.py": code}
    server.publish("someone/own", OTHER, files)
    assert "'someone/own' cannot be loaded" in one_line(models.load_policy, "someone/own")
    models.save_model(*tiny.policy(), tmp_path / "model")  # beside safetensors, which are not copied away from the code
    text = one_line(models.load_policy, folder_of(files, tmp_path / "model"))
    assert "cannot be loaded" in text and "custom code" in text
    assert not marker.exists() and "own.py" not in server.files_asked()


def test_a_conversion_that_was_interrupted_is_done_again(opt, results, tmp_path, monkeypatch):
    import safetensors.torch

    folder = folder_of(opt, tmp_path / "model")

    def stopped(tensors, path, metadata=None):
        Path(path).write_bytes(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", stopped)
        with pytest.raises(KeyboardInterrupt):
            models.load_policy(folder, device="cpu")
        assert converted(results) == []
    models.load_policy(folder, device="cpu")
    (made,) = converted(results)
    whole = (made / "model.safetensors").read_bytes()
    leftover = made.with_name(f".{made.name}.partial")  # what a killed process leaves
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half a file")
    (made / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    policy = models.load_policy(folder, device="cpu")
    assert torch.equal(policy.lm_head.weight, half(tiny.policy()[0])["lm_head.weight"].float())
    assert (made / "model.safetensors").read_bytes() == whole and not leftover.exists()


def test_a_full_disk_and_a_closed_folder_are_one_line(server, opt, results, cache, tmp_path, monkeypatch):
    import safetensors.torch

    folder = folder_of(opt, tmp_path / "model")
    with monkeypatch.context() as patch:
        full = safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
        patch.setattr(safetensors.torch, "save_file", lambda *_, **__: (_ for _ in ()).throw(full))
        assert "the disk is full" in one_line(models.load_policy, folder, kind=StageError)
    with monkeypatch.context() as patch:
        patch.setenv("COURSE_RESULTS", str(folder / "config.json"))
        assert "or set COURSE_RESULTS" in one_line(models.load_policy, folder, kind=StageError)
    server.publish(OPT, PINNED, opt)
    cache.write_text("a file where the cache should be")
    text = one_line(models.load_policy, OPT, kind=StageError)
    assert text.startswith("downloading facebook/opt-350m: ") and text.endswith("or set HF_HOME")


def test_weights_of_another_architecture_are_refused(opt, judge, results, tmp_path):
    text = one_line(
        models.load_policy,
        folder_of(
            opt
            | {
                "pytorch_model.bin": saved(
                    {"model.decoder.embed_tokens.weight": half(tiny.policy()[0])["lm_head.weight"]}, tmp_path
                )
            },
            tmp_path / "model",
        ),
    )
    assert "has no weights for model.decoder." in text and "OPTForCausalLM" in text


# ------------------------------------------------------------------------------------------------------- tokenizers


def test_vocabulary_and_merges_give_opts_ids_with_and_without_a_word_on_special_tokens(opt, results, tmp_path):
    for left_out in ((), ("tokenizer_config.json",), ("tokenizer_config.json", "special_tokens_map.json")):
        files = {name: content for name, content in opt.items() if name not in left_out}
        tokenizer = models.load_tokenizer(folder_of(files, tmp_path / f"{len(left_out)} left out"))
        assert tokenizer(TEXT)["input_ids"] == tiny.policy()[1](TEXT)["input_ids"]
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2, 1)
        models.save_model(tiny.policy()[0], tokenizer, tmp_path / "again")
        assert models.load_tokenizer(tmp_path / "again")(TEXT)["input_ids"] == tiny.policy()[1](TEXT)["input_ids"]


@pytest.mark.skipif(not OFFICIAL_OPT.is_dir(), reason="OPT's published vocabulary is not here")
def test_the_published_vocabulary_gives_the_published_ids(opt, results, tmp_path):
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes(opt[name])
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).symlink_to(OFFICIAL_OPT / name)
    for told in (True, False):
        if not told:
            (tmp_path / "tokenizer_config.json").unlink()
        tokenizer = models.load_tokenizer(tmp_path)
        assert tokenizer("Hello world")["input_ids"] == [2, 31414, 232]
        assert tokenizer("\n\nHuman:")["input_ids"] == [2, 50118, 50118, 33837, 35]
        assert len(tokenizer) == 50265 and tokenizer.pad_token_id == 1


# --------------------------------------------------------------------------------------------- revisions and offline


def test_the_pinned_revision_is_taken_and_no_other_in_its_place(server, opt, cache, monkeypatch):
    fill_cache(cache, OPT, OTHER, opt, ref="main")
    with monkeypatch.context() as patch:
        go_offline(patch)
        text = one_line(models.load_policy, OPT)
        assert (
            "(revision 08ab08c) is not in the hub's cache" in text
            and "revision 0123456 is there, but is another" in text
        )
    server.publish(OPT, OTHER, opt)
    text = one_line(models.load_policy, OPT)
    assert f"has no revision {PINNED} on the hub" in text and "or give a folder: policy=PATH" in text
    server.publish(OPT, PINNED, opt)
    models.load_policy(OPT, device="cpu")
    assert (cache / "models--facebook--opt-350m" / "snapshots" / PINNED / "pytorch_model.bin").exists()


def test_offline_the_cache_is_enough_and_what_it_lacks_is_named(server, opt, judge, cache, monkeypatch):
    go_offline(monkeypatch)
    needed = {name: content for name, content in opt.items() if name not in TRAPS}
    snapshot = fill_cache(cache, OPT, PINNED, needed)
    models.load_policy(OPT, device="cpu")
    models.load_tokenizer(OPT)
    for name, complaint in {
        "merges.txt": (models.load_tokenizer, "lacks its tokenizer"),
        "pytorch_model.bin": (models.load_policy, "lacks weights"),
        "config.json": (models.load_policy, "lacks config.json"),
    }.items():
        (snapshot / name).unlink()
        assert complaint[1] in one_line(complaint[0], OPT)
    assert server.asked == []


def test_the_command_that_an_offline_complaint_names_mends_it(server, opt, cache, monkeypatch):
    server.publish(OPT, PINNED, opt)
    with monkeypatch.context() as patch:
        go_offline(patch)
        command = shlex.split(one_line(models.load_policy, OPT).split("`")[1])
    assert command[:2] == ["hf", "download"] and PINNED in command
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(cache), "HF_HOME": str(cache / "home")}
    hf = Path(sys.executable).with_name("hf")
    done = subprocess.run([hf, *command[1:]], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not server.files_asked() & {"flax_model.msgpack", "tf_model.h5"}
    go_offline(monkeypatch)
    models.load_policy(OPT, device="cpu")


def test_without_a_pin_the_newest_is_asked_for_and_the_cache_serves_when_nobody_answers(
    server, opt, cache, monkeypatch, capsys
):
    server.publish("someone/opt", OTHER, opt)
    first = hub.tokenizer_folder("someone/opt")
    server.asked.clear()
    assert hub.tokenizer_folder("someone/opt") == first and len(server.asked) == 1
    newer = {"tokenizer_config.json": opt["tokenizer_config.json"] + b" "}
    server.publish("someone/opt", PINNED, opt | newer)
    second = hub.tokenizer_folder("someone/opt")
    assert second.name == PINNED and (second / "tokenizer_config.json").read_bytes().endswith(b" ")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    capsys.readouterr()
    assert hub.tokenizer_folder("someone/opt") == second
    assert "the newest revision in the cache is used" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------- refusals and dead lines


def no_waiting(monkeypatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} s to try again"))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("gated", ["is gated", "accept its terms", "hf auth login"]),
        ("absent", ["is not on the hub, or not for you", "mend the name"]),
        ("impossible", ["cannot be a name on the hub"]),
        ("absent for me", ["is not on the hub, or not for you", "mend the name"]),
        ("no weights", ["lacks config.json, or model.safetensors or pytorch_model.bin"]),
        ("closed port", ["cannot be fetched from the hub", "check the connection"]),
        ("silence", ["cannot be fetched from the hub", "check the connection"]),
        ("broken hub", ["is refused by the hub", "503", "try again later"]),
    ],
)
def test_a_hub_that_gives_nothing_is_one_quick_line(fault, words, server, opt, monkeypatch):
    name = "someone/opt" if fault != "impossible" else "some..one/opt"
    if not fault.startswith("absent"):
        server.publish(name, OTHER, opt if fault != "no weights" else {"config.json": b"{}"} | TRAPS)
    if fault == "gated":
        server.gated.add(name)
    elif fault == "absent for me":
        server.absent_status = 404
    elif fault == "closed port":
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    elif fault == "silence":
        server.silent.set()
        monkeypatch.setattr(hub, "ASK_SECONDS", 0.3)
    elif fault == "broken hub":
        server.failing["/"] = 503
    if fault != "silence":
        no_waiting(monkeypatch)
    text = one_line(models.load_policy, name)
    assert all(word in text for word in [f"model {name!r}", "policy=PATH or reward_model=PATH", *words]), text


# ------------------------------------------------------------------------------------------- interrupted and damaged


def patient(monkeypatch) -> None:
    """Retries without their pauses, and downloads that are written down in small pieces, as large files are."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)
    for module in ("file_download", "utils._http"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", type("NoPause", (), {"sleep": lambda _: None}))


def test_a_download_that_is_cut_goes_on_where_it_was(server, opt, monkeypatch, capfd):
    patient(monkeypatch)
    server.publish(OPT, PINNED, opt)
    server.cuts["pytorch_model.bin"] = [1000, 5000]
    policy = models.load_policy(OPT, device="cpu")
    assert torch.equal(policy.lm_head.weight, half(tiny.policy()[0])["lm_head.weight"].float())
    spans = [line.split()[-1] for line in server.asked if line.startswith("GET") and "pytorch_model.bin" in line]
    assert spans[1:] == ["bytes=1000-", "bytes=6000-"] and capfd.readouterr().err == ""


def test_a_hub_that_tells_but_does_not_give_is_named_by_its_own_words(server, opt, monkeypatch):
    patient(monkeypatch)
    server.publish("someone/opt", OTHER, opt)
    server.failing["/someone"] = 503
    text = one_line(models.load_policy, "someone/opt")
    assert "is refused by the hub (Server error '503" in text and "try again later" in text


def test_a_download_that_never_ends_is_one_line_and_leaves_no_half_file(server, opt, cache, monkeypatch):
    patient(monkeypatch)
    server.publish(OPT, PINNED, opt)
    server.cuts["pytorch_model.bin"] = [1000] + [0] * 20
    text = one_line(models.load_policy, OPT)
    assert "cannot be fetched from the hub" in text and "run again" in text
    blobs = cache / "models--facebook--opt-350m" / "blobs"
    assert {path.name for path in blobs.iterdir()} == {etag(n, opt[n]) for n in opt if n in hub.SMALL_FILES}
    server.cuts.clear()
    server.asked.clear()
    models.load_policy(OPT, device="cpu")
    assert server.files_asked() == {"pytorch_model.bin"}, "what was finished is downloaded again"


@pytest.mark.parametrize(
    "state",
    ["incomplete blob", "no weights", "link to nothing", "half the weights", "half of merges.txt", "other bytes"],
)
def test_what_an_interruption_left_in_the_cache_is_completed(state, server, opt, cache, monkeypatch):
    server.publish(OPT, PINNED, opt)
    needed = {name: content for name, content in opt.items() if name not in TRAPS}
    snapshot = fill_cache(cache, OPT, PINNED, needed)
    name = "merges.txt" if state == "half of merges.txt" else "pytorch_model.bin"
    blob = (snapshot / name).resolve()
    if state == "incomplete blob":
        blob.rename(blob.with_name(blob.name + ".1a2b3c4d.incomplete"))
        (snapshot / name).unlink()
    elif state == "no weights":
        (snapshot / name).unlink()
        blob.unlink()
    elif state == "link to nothing":
        blob.unlink()
    elif state == "other bytes":
        blob.write_bytes(opt[name][:2000] + b"\0" * 100 + opt[name][2100:])
    else:
        blob.write_bytes(opt[name][: len(opt[name]) // 2])
    with monkeypatch.context() as patch:
        go_offline(patch)
        text = one_line(models.load_policy, OPT)
        assert ("has a damaged" if state[:4] in ("half", "othe") else "lacks weights") in text and "hf download" in text
    policy = models.load_policy(OPT, device="cpu")
    assert torch.equal(policy.lm_head.weight, half(tiny.policy()[0])["lm_head.weight"].float())
    assert models.load_tokenizer(OPT)(TEXT)["input_ids"] == tiny.policy()[1](TEXT)["input_ids"]
    assert server.files_asked() == {name}


def test_a_file_that_arrives_with_other_bytes_is_not_used(server, opt, results):
    server.publish(OPT, PINNED, opt)
    server.changed["pytorch_model.bin"] = opt["pytorch_model.bin"][:-100] + b"\0" * 100
    assert "pytorch_model.bin arrives damaged from the hub" in one_line(models.load_policy, OPT)
    assert not converted(results)
    server.changed.clear()
    models.load_policy(OPT, device="cpu")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("state", ["half", "empty", "pointer"])
def test_damaged_weights_in_a_folder_are_named(name, state, opt, results, tmp_path):
    folder = folder_of(opt, tmp_path / "model")
    if name == "model.safetensors":
        models.save_model(*tiny.policy(), folder)
    content = (folder / name).read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    (folder / name).write_bytes({"half": content[: len(content) // 2], "empty": b"", "pointer": pointer}[state])
    text = one_line(models.load_policy, folder)
    assert f"{'git-lfs pointer as' if state == 'pointer' else 'damaged'} {name}" in text and str(folder) in text
    assert not converted(results)


def test_a_damaged_tokenizer_or_config_in_a_folder_is_one_line(opt, results, tmp_path):
    folder = folder_of(opt, tmp_path / "model")
    (folder / "tokenizer.json").write_text('{"version": "1.0", "mod')
    assert "cannot be loaded" in one_line(models.load_tokenizer, folder)
    (folder / "config.json").write_bytes(opt["config.json"][:50])
    assert "cannot be loaded" in one_line(models.load_policy, folder)


# ----------------------------------------------------------------------------------------------------------- dataset


def preference_row(question: str) -> dict:
    prompt = f"\n\nHuman: {question}\n\nAssistant:"
    return {"chosen": prompt + " Good.", "rejected": prompt + " Bad."}


def rows_file(*questions: str, extra: str = "") -> bytes:
    lines = [json.dumps(preference_row(question)) for question in questions]
    return gzip.compress(("\n".join(lines) + "\n" + extra).encode(), mtime=0)


@pytest.fixture
def dialogues() -> dict[str, bytes]:
    return {
        "README.md": b"# dialogues",
        "harmless-base/train.jsonl.gz": rows_file("One?", "Two?"),
        "harmless-base/test.jsonl.gz": rows_file("Three?", extra="{broken\n"),
        "helpful-base/test.jsonl.gz": rows_file("Four?"),
        "red-team-attempts/red_team_attempts.jsonl.gz": rows_file("Five?"),
    }


def test_pairs_from_the_hub_are_those_of_a_folder_and_only_their_file_is_downloaded(server, dialogues, tmp_path):
    server.publish(HH, preferences.HUB_REVISIONS[HH], dialogues, kind="dataset")
    server.publish(HH, OTHER, {}, kind="dataset")
    for name, content in dialogues.items():
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_bytes(content)
    loaded = preferences.load_pairs(HH, ["harmless-base"], "train")
    assert loaded.pairs.equals(preferences.load_pairs(tmp_path / "here", ["harmless-base"], "train").pairs)
    assert list(loaded.pairs["line"]) == [1, 2] and server.files_asked() == {"train.jsonl.gz"}
    server.asked.clear()
    assert preferences.load_transcripts(HH, ["harmless-base"], "train").shape == (2, 5) and server.asked == []
    text = one_line(preferences.load_pairs, HH, ["harmless-base"], "test")
    assert text == one_line(preferences.load_pairs, tmp_path / "here", ["harmless-base"], "test")
    assert text.startswith("harmless-base/test.jsonl.gz, line 2: not JSON")


def test_a_dataset_out_of_reach_is_one_quick_line(server, dialogues, cache, monkeypatch):
    no_waiting(monkeypatch)
    read = preferences.load_pairs
    assert "dataset 'Anthropic/hh-rlhf' (revision 09be8c5) is not on the hub" in one_line(read, HH, ["x"], "test")
    server.publish(HH, OTHER, dialogues, kind="dataset")
    assert "has no revision 09be8c5bbc57cb" in one_line(read, HH, ["harmless-base"], "test")
    server.publish(HH, preferences.HUB_REVISIONS[HH], dialogues, kind="dataset")
    text = one_line(read, HH, ["helpful-base"], "train")
    assert "has no helpful-base/train.jsonl.gz (it holds harmless-base/test.jsonl.gz, " in text
    with monkeypatch.context() as patch:
        go_offline(patch)
        text = one_line(read, HH, ["harmless-base"], "train")
        command = f"hf download {HH} --revision {preferences.HUB_REVISIONS[HH]} harmless-base/train.jsonl.gz"
        assert f"`{command} --repo-type dataset`" in text and text.endswith("or give a folder: dataset=PATH")
    server.gated.add(HH)
    assert "is gated" in one_line(read, HH, ["harmless-base"], "train")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be fetched from the hub" in one_line(read, HH, ["harmless-base"], "train")


def test_half_a_dialogue_file_is_never_read(server, dialogues, cache, tmp_path, monkeypatch):
    name, revision = "harmless-base/train.jsonl.gz", preferences.HUB_REVISIONS[HH]
    dialogues[name] = rows_file(*(f"{i} and {i * i % 97}?" for i in range(2000)))
    content = dialogues[name]
    server.publish(HH, revision, dialogues, kind="dataset")
    snapshot = fill_cache(cache, HH, revision, {name: content}, kind="dataset")
    (snapshot / name).resolve().write_bytes(content[: len(content) // 2])
    with monkeypatch.context() as patch:
        go_offline(patch)
        assert f"has a damaged {name}" in one_line(preferences.load_pairs, HH, ["harmless-base"], "train")
    assert len(preferences.load_pairs(HH, ["harmless-base"], "train").pairs) == 2000
    here = tmp_path / "here" / name
    here.parent.mkdir(parents=True)
    middle = len(content) // 2
    overwritten = content[:10] + b"\xff" * 50 + content[60:]
    for damaged, kind in ((content[:middle], EOFError), (overwritten, zlib.error), (content[:-8] + b"\0" * 8, OSError)):
        with pytest.raises(kind):
            gzip.decompress(damaged)
        here.write_bytes(damaged)
        for read in (preferences.load_pairs, preferences.load_transcripts):
            text = one_line(read, tmp_path / "here", ["harmless-base"], "train")
            assert f"{name} cannot be read" in text and "fetch the file again" in text
