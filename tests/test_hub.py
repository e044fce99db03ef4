"""Models and datasets from the hub, against an imitation of the hub and its cache."""

import gzip
import json
import os
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
from hub_imitation import fill_cache, go_offline
from tiny_repositories import HH, OPT, OTHER, PINNED, REWARD_MODEL, TEXT, TRAPS, converted, half, one_line

from helpers.core import hub, repositories
from helpers.core.profiles import ROOT
from helpers.data import pairs
from helpers.models import checkpoint_files, loading


def test_a_policy_is_loaded_from_the_hub_as_it_is_published(server, opt_published, results):
    server.publish(OPT, PINNED, opt_published)
    server.publish(OPT, OTHER, {"config.json": b"{}"})  # the newest commit is not the pinned one
    policy, tokenizer = loading.load_policy(OPT, device="cpu"), loading.load_tokenizer(OPT)
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}
    for name, value in half(tiny.policy()[0]).items():
        assert torch.equal(policy.state_dict()[name], value.float()), name
    assert policy.lm_head.weight is policy.model.decoder.embed_tokens.weight
    ids = tokenizer(TEXT)["input_ids"]
    assert ids == tiny.policy()[1](TEXT)["input_ids"] and ids[0] == 2 and tokenizer.pad_token_id == 1
    assert server.files_asked() == set(opt_published) - set(TRAPS)
    assert not [line for line in server.asked if OTHER in line or "/main" in line]


def test_a_reward_model_is_loaded_from_the_hub_as_it_is_published(server, reward_model_published, tmp_path):
    server.publish(REWARD_MODEL, repositories.REWARD_MODEL.revision, reward_model_published)
    model, tokenizer = loading.load_reward_model(REWARD_MODEL, "cpu")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    for name, value in half(tiny.reward_model()[0]).items():
        assert torch.equal(model.state_dict()[name], value.float()), name
    assert tokenizer(TEXT, " Yes.")["input_ids"] == tiny.reward_model()[1](TEXT, " Yes.")["input_ids"]
    assert server.files_asked() == set(reward_model_published) - {"training_args.bin"}


def test_the_second_load_asks_nobody_and_converts_nothing(server, opt_published, results, monkeypatch, capfd):
    server.publish(OPT, PINNED, opt_published)
    loading.load_policy(OPT, device="cpu")
    out, _ = capfd.readouterr()
    downloading, converting = out.splitlines()
    assert re.fullmatch(r"downloading model 'facebook/opt-350m' \(revision 08ab08c\), 0\.\d MB in all", downloading)
    assert converting == "facebook/opt-350m: converting the weights to safetensors, once"
    (made,) = converted(results)
    assert sorted(path.name for path in made.iterdir()) == [
        *("config.json", "generation_config.json", "manifest.json", "model.safetensors")
    ]
    server.asked.clear()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle is opened again"))
    loading.load_policy(OPT, device="cpu")
    loading.load_tokenizer(OPT)
    assert server.asked == [] and capfd.readouterr() == ("", "")


def test_a_tokenizer_alone_downloads_no_weights(server, opt_published, results):
    server.publish(OPT, PINNED, opt_published)
    loading.load_tokenizer(OPT)
    assert "pytorch_model.bin" not in server.files_asked() and not converted(results)
    loading.load_policy(OPT, device="cpu")
    assert "pytorch_model.bin" in server.files_asked()


def test_safetensors_are_preferred_to_pickles(server, opt_published, results, tmp_path):
    loading.save_model(*tiny.policy(), tmp_path / "safe")
    safe = (tmp_path / "safe" / "model.safetensors").read_bytes()
    server.publish("someone/both", OTHER, opt_published | {"model.safetensors": safe})
    loading.load_policy("someone/both", device="cpu")
    assert "model.safetensors" in server.files_asked() and "pytorch_model.bin" not in server.files_asked()
    assert not converted(results)


def test_the_environment_alone_leads_to_the_hub(opt_published, dialogues, tmp_path):
    """Nothing patched: a process of its own, told by the variables that users set."""
    program = (
        "from helpers.data.pairs import load_pairs\nfrom helpers.models.checkpoint_files import model_folder\n"
        f"pairs = load_pairs({HH!r}, ['harmless-base'], 'train').pairs\n"
        f"print(len(pairs), sorted(path.name for path in model_folder({OPT!r}).iterdir()))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(tmp_path / "home"), "COURSE_RESULTS": str(tmp_path / "results")}
    loading.save_model(*tiny.policy(), tmp_path)
    files = opt_published | {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()}
    with hub_imitation.running() as server:
        server.publish(OPT, PINNED, files)
        server.publish(HH, repositories.DATASET.revision, dialogues, kind="dataset")
        environment |= {"HF_ENDPOINT": server.url, "NO_PROXY": "127.0.0.1,localhost"}
        told = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=ROOT
        )
    assert told.returncode == 0, told.stderr[-2000:]
    wanted = set(files) - set(TRAPS) - {"pytorch_model.bin"}
    assert told.stdout.splitlines()[-1] == f"2 {sorted(wanted)}" and told.stdout.count("downloading") == 2
    assert server.files_asked() == wanted | {"train.jsonl.gz"}


def test_the_pinned_revision_is_taken_and_no_other_in_its_place(server, opt_published, cache, monkeypatch):
    fill_cache(cache, OPT, OTHER, opt_published, ref="main")
    with monkeypatch.context() as patch:
        go_offline(patch)
        text = one_line(loading.load_policy, OPT)
        assert "(revision 08ab08c) is not whole in the hub's cache" in text
    server.publish(OPT, OTHER, opt_published)
    text = one_line(loading.load_policy, OPT)
    assert f"has no revision {PINNED} on the hub" in text and "or give a folder: policy=PATH" in text
    server.publish(OPT, PINNED, opt_published)
    loading.load_policy(OPT, device="cpu")
    assert (cache / "models--facebook--opt-350m" / "snapshots" / PINNED / "pytorch_model.bin").exists()


def test_offline_the_cache_is_enough_and_what_it_lacks_is_named(
    server, opt_published, reward_model_published, cache, monkeypatch
):
    go_offline(monkeypatch)
    needed = {name: content for name, content in opt_published.items() if name not in TRAPS}
    snapshot = fill_cache(cache, OPT, PINNED, needed)
    loading.load_policy(OPT, device="cpu")
    loading.load_tokenizer(OPT)
    for name, complaint in {
        "merges.txt": (loading.load_tokenizer, "lacks its tokenizer"),
        "pytorch_model.bin": (loading.load_policy, "lacks weights"),
        "config.json": (loading.load_policy, "lacks config.json"),
    }.items():
        (snapshot / name).unlink()
        assert complaint[1] in one_line(complaint[0], OPT)
    assert server.asked == []


def test_the_command_that_an_offline_complaint_names_mends_it(server, opt_published, cache, monkeypatch):
    server.publish(OPT, PINNED, opt_published)
    with monkeypatch.context() as patch:
        go_offline(patch)
        command = shlex.split(one_line(loading.load_policy, OPT).split("`")[1])
    assert command[:2] == ["hf", "download"] and PINNED in command
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(cache), "HF_HOME": str(cache / "home")}
    hf = Path(sys.executable).with_name("hf")
    done = subprocess.run([hf, *command[1:]], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not server.files_asked() & {"flax_model.msgpack", "tf_model.h5"}
    go_offline(monkeypatch)
    loading.load_policy(OPT, device="cpu")


def test_without_a_pin_the_newest_is_asked_for_and_the_cache_serves_when_nobody_answers(
    server, opt_published, cache, monkeypatch, capsys
):
    server.publish("someone/opt", OTHER, opt_published)
    first = checkpoint_files.tokenizer_folder("someone/opt")
    server.asked.clear()
    assert checkpoint_files.tokenizer_folder("someone/opt") == first and len(server.asked) == 1
    newer = {"tokenizer_config.json": opt_published["tokenizer_config.json"] + b" "}
    server.publish("someone/opt", PINNED, opt_published | newer)
    second = checkpoint_files.tokenizer_folder("someone/opt")
    assert second.name == PINNED and (second / "tokenizer_config.json").read_bytes().endswith(b" ")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    capsys.readouterr()
    assert checkpoint_files.tokenizer_folder("someone/opt") == second
    assert "the newest revision in the cache is used" in capsys.readouterr().out


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
def test_a_hub_that_gives_nothing_is_one_quick_line(fault, words, server, opt_published, monkeypatch):
    name = "someone/opt" if fault != "impossible" else "some..one/opt"
    if not fault.startswith("absent"):
        server.publish(name, OTHER, opt_published if fault != "no weights" else {"config.json": b"{}"} | TRAPS)
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
    text = one_line(loading.load_policy, name)
    assert all(
        word in text for word in [f"model {name!r}", "or give a folder: policy=PATH or reward_model=PATH", *words]
    ), text


def patient(monkeypatch) -> None:
    """Retries without their pauses, and downloads that are written down in small pieces, as large files are."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)
    for module in ("file_download", "utils._http"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", type("NoPause", (), {"sleep": lambda _: None}))


def test_a_hub_that_tells_but_does_not_give_is_named_by_its_own_words(server, opt_published, monkeypatch):
    patient(monkeypatch)
    server.publish("someone/opt", OTHER, opt_published)
    server.failing["/someone"] = 503
    text = one_line(loading.load_policy, "someone/opt")
    assert "is refused by the hub (Server error '503" in text and "try again later" in text


def test_a_download_that_never_ends_is_one_line_and_what_was_finished_is_kept(server, opt_published, monkeypatch):
    patient(monkeypatch)
    server.publish(OPT, PINNED, opt_published)
    server.cuts["pytorch_model.bin"] = [1000] + [0] * 20
    text = one_line(loading.load_policy, OPT)
    assert "cannot be fetched from the hub" in text and "run again" in text
    server.cuts.clear()
    server.asked.clear()
    loading.load_policy(OPT, device="cpu")
    assert "pytorch_model.bin" in server.files_asked() and "config.json" not in server.files_asked()


@pytest.mark.parametrize("state", ["incomplete blob", "no weights", "link to nothing", "no tokenizer_config.json"])
def test_what_an_interruption_left_in_the_cache_is_completed(state, server, opt_published, cache, monkeypatch):
    server.publish(OPT, PINNED, opt_published)
    needed = {name: content for name, content in opt_published.items() if name not in TRAPS}
    if state == "no tokenizer_config.json":  # the library's own list of the files says that it is missing
        loading.load_policy(OPT, device="cpu")
        name, snapshot = "tokenizer_config.json", cache / "models--facebook--opt-350m" / "snapshots" / PINNED
        server.asked.clear()
    else:
        name, snapshot = "pytorch_model.bin", fill_cache(cache, OPT, PINNED, needed)
    blob = (snapshot / name).resolve()
    if state == "incomplete blob":
        blob.rename(blob.with_name(blob.name + ".1a2b3c4d.incomplete"))
        (snapshot / name).unlink()
    elif state == "link to nothing":
        blob.unlink()
    else:
        (snapshot / name).unlink()
        blob.unlink()
    with monkeypatch.context() as patch:
        go_offline(patch)
        text = one_line(loading.load_policy, OPT)
        assert ("lacks weights" if name == "pytorch_model.bin" else "is not whole") in text and "hf download" in text
    policy = loading.load_policy(OPT, device="cpu")
    assert torch.equal(policy.lm_head.weight, half(tiny.policy()[0])["lm_head.weight"].float())
    assert loading.load_tokenizer(OPT)(TEXT)["input_ids"] == tiny.policy()[1](TEXT)["input_ids"]
    assert server.files_asked() == {name}


def test_half_a_pickle_in_the_cache_is_named_with_the_command_that_mends_it(opt_published, results, cache, server):
    snapshot = fill_cache(cache, OPT, PINNED, opt_published)
    blob = (snapshot / "pytorch_model.bin").resolve()
    blob.write_bytes(blob.read_bytes()[:5000])
    text = one_line(loading.load_policy, OPT)
    assert "has a damaged pytorch_model.bin" in text and "hf download --force-download" in text
    assert not converted(results)


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
    server.publish(HH, repositories.DATASET.revision, dialogues, kind="dataset")
    server.publish(HH, OTHER, {}, kind="dataset")
    for name, content in dialogues.items():
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_bytes(content)
    loaded = pairs.load_pairs(HH, ["harmless-base"], "train")
    assert loaded.pairs.equals(pairs.load_pairs(tmp_path / "here", ["harmless-base"], "train").pairs)
    assert list(loaded.pairs["line"]) == [1, 2] and server.files_asked() == {"train.jsonl.gz"}
    server.asked.clear()
    assert pairs.load_transcripts(HH, ["harmless-base"], "train").shape == (2, 5) and server.asked == []
    text = one_line(pairs.load_pairs, HH, ["harmless-base"], "test")
    assert text == one_line(pairs.load_pairs, tmp_path / "here", ["harmless-base"], "test")
    assert text.startswith("harmless-base/test.jsonl.gz, line 2: not JSON")


def test_a_dataset_out_of_reach_is_one_quick_line(server, dialogues, cache, monkeypatch):
    no_waiting(monkeypatch)
    read = pairs.load_pairs
    assert "dataset 'Anthropic/hh-rlhf' (revision 09be8c5) is not on the hub" in one_line(read, HH, ["x"], "test")
    server.publish(HH, OTHER, dialogues, kind="dataset")
    assert "has no revision 09be8c5bbc57cb" in one_line(read, HH, ["harmless-base"], "test")
    server.publish(HH, repositories.DATASET.revision, dialogues, kind="dataset")
    text = one_line(read, HH, ["helpful-base"], "train")
    assert "has no helpful-base/train.jsonl.gz (it holds harmless-base/test.jsonl.gz, " in text
    with monkeypatch.context() as patch:
        go_offline(patch)
        text = one_line(read, HH, ["harmless-base"], "train")
        command = f"hf download {HH} --revision {repositories.DATASET.revision} harmless-base/train.jsonl.gz"
        assert f"`{command} --repo-type dataset`" in text and text.endswith("or give a folder: dataset=PATH")
    server.gated.add(HH)
    assert "is gated" in one_line(read, HH, ["harmless-base"], "train")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be fetched from the hub" in one_line(read, HH, ["harmless-base"], "train")


def test_half_a_dialogue_file_is_never_read(tmp_path):
    name = "harmless-base/train.jsonl.gz"
    content = rows_file(*(f"{i} and {i * i % 97}?" for i in range(2000)))
    here = tmp_path / "here" / name
    here.parent.mkdir(parents=True)
    middle = len(content) // 2
    overwritten = content[:10] + b"\xff" * 50 + content[60:]
    for damaged, kind in ((content[:middle], EOFError), (overwritten, zlib.error), (content[:-8] + b"\0" * 8, OSError)):
        with pytest.raises(kind):
            gzip.decompress(damaged)
        here.write_bytes(damaged)
        for read in (pairs.load_pairs, pairs.load_transcripts):
            text = one_line(read, tmp_path / "here", ["harmless-base"], "train")
            assert f"{name} cannot be read" in text and "fetch the file again" in text
