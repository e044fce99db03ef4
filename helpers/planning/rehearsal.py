"""The paper profile proved without the hub: folders that look like the hub's, random weights, a few steps.

OUT/opt-350m       a config that says float16, pytorch_model.bin, vocab.json and merges.txt; nothing safer, as there
OUT/reward-model   a DeBERTa-v3-large classifier, pytorch_model.bin and tokenizer.json
OUT/hh-rlhf        dialogues of our own with HH-RLHF's layout and lengths
OUT/results        the run; each stage in a process of its own, so that its peak of memory is its own
"""

import contextlib
import datetime
import gzip
import io
import itertools
import json
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from helpers.core import files, store
from helpers.core.errors import DataError, SettingsError
from helpers.core.methods import PAPER_MODELS, method_of
from helpers.core.profiles import DATA_CACHE, results_root
from helpers.core.repositories import POLICY as OPT_350M
from helpers.core.repositories import REWARD_MODEL
from helpers.core.settings import Settings, resolve
from helpers.core.text import GB, duration
from helpers.data import synthetic
from helpers.models import sizes
from helpers.models.hardware import PROCESS, peak_memory, precision_on, this_device
from helpers.pipeline.run import Run
from helpers.planning import lengths, plan, throughput

POLICY, REWARD_FOLDER, DATASET, RESULTS = "opt-350m", "reward-model", "hh-rlhf", "results"
SPECIAL = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
WORDS_A_TOKEN = 0.75  # English in OPT's tokens, about


# ------------------------------------------------------------------------------------- folders like the hub's


def write_folders(out: Path, pairs: int, vocabulary: Path | None = None) -> dict[str, str]:
    """Make what is not there yet; returns settings that name the folders. Deterministic, 2.5 GB.

    vocabulary: a folder with OPT's vocab.json and merges.txt; without it the embedded one is used, which gives other
    tokens and the same sizes. Raises DataError when the folder has no such files.
    """
    makers = {
        POLICY: lambda folder: _write_policy(folder, vocabulary),
        REWARD_FOLDER: _write_reward_model,
        DATASET: lambda folder: write_dialogues(folder, pairs),
    }
    for name, make in makers.items():
        target, wanted = out / name, files.sha256_of_json([name, str(vocabulary), pairs if name == DATASET else 0])
        if (target / store.MARKER).is_file() and (target / store.MARKER).read_text() == wanted:
            continue
        partial = target.with_name(f".{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with files.plain_disk_errors(f"writing {name}"):
            make(partial)
            (partial / store.MARKER).write_text(wanted)
            store.swap_in(partial, target)
    return {
        "policy": str((out / POLICY).resolve()),
        "reward_model": str((out / REWARD_FOLDER).resolve()),
        "dataset": str((out / DATASET).resolve()),
    }


def write_tokenizer(folder: Path, vocabulary: Path | None) -> None:
    """OPT's tokenizer as its repository has it: vocab.json, merges.txt and the settings that put </s> in front."""
    if vocabulary is None:
        stated = json.loads((DATA_CACHE / "policy" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in stated["merges"]]
        (folder / "vocab.json").write_text(json.dumps(stated["vocab"], ensure_ascii=False), encoding="utf-8")
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    else:
        for name in ("vocab.json", "merges.txt"):
            if not (vocabulary / name).is_file():
                raise DataError(f"{vocabulary} has no {name}: give a folder with OPT's vocab.json and merges.txt")
            shutil.copyfile(vocabulary / name, folder / name)
    stated = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "errors": "replace", **SPECIAL}
    files.write_json(folder / "tokenizer_config.json", stated)
    files.write_json(folder / "special_tokens_map.json", SPECIAL)
    if not (folder / "config.json").exists():
        files.write_json(folder / "config.json", sizes.PUBLISHED[OPT_350M.id])


def _write_policy(folder: Path, vocabulary: Path | None) -> None:
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    write_tokenizer(folder, vocabulary)
    stated = sizes.PUBLISHED[OPT_350M.id]
    torch.manual_seed(0)
    model = OPTForCausalLM(OPTConfig(**_arguments(stated)))
    torch.save(model.half().state_dict(), folder / "pytorch_model.bin")


def _write_reward_model(folder: Path) -> None:
    import torch
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    stated = sizes.PUBLISHED[REWARD_MODEL.id]
    torch.manual_seed(0)
    model = DebertaV2ForSequenceClassification(DebertaV2Config(**_arguments(stated), num_labels=1))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    files.write_json(folder / "config.json", stated)
    for path in (DATA_CACHE / "reward_model").glob("*token*.json"):
        shutil.copyfile(path, folder / path.name)


def _arguments(stated: dict[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in stated.items() if n not in ("model_type", "architectures", "torch_dtype", "id2label")}


def write_dialogues(folder: Path, pairs: int) -> None:
    """Dialogues of our own as long as HH-RLHF's: SUBSET/{train,test}.jsonl.gz with `pairs` train rows in all.

    Each is a pair of the embedded world with exchanges of others before it, until the prompt has a length that is
    drawn from HH-RLHF's percentiles.
    """
    measured = files.read_json(lengths.MEASURED)["subsets"]
    for subset in (synthetic.HARMLESS, synthetic.HELPFUL):
        percentiles = measured[subset]["prompt"]
        for split, n in (("train", -(-pairs // 2)), ("test", max(200, pairs // 40))):
            rows, _ = synthetic.generate_pairs(1, subset, split, n, flawed=False)
            draw = random.Random(f"{subset}/{split}")
            path = folder / subset / f"{split}.jsonl.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
                for row in rows:
                    words = int(WORDS_A_TOKEN * draw.choice(percentiles))
                    history = _history(rows, words - len(row["chosen"].split()), draw)
                    file.write(json.dumps({side: history + row[side] for side in ("chosen", "rejected")}) + "\n")


def _history(rows: list[dict], words: int, draw: random.Random) -> str:
    text = ""
    while words > 0:
        text += draw.choice(rows)["chosen"]
        words -= len(text.split())
    return text


# ----------------------------------------------------------------------------------------------- a few steps

STAGES = ("pairs", "sft", "dpo", "sft_dpo", "responses", "scores")
PROMPTS = 2  # a side
NEW_TOKENS, TIMED = 16, 16  # tokens of an answer, and answers at once where decoding is timed


class Rehearsed(NamedTuple):
    """One stage as it ran in a process of its own: seconds, peak memory in bytes, and what was counted."""

    name: str
    seconds: float
    memory: float
    counted: dict[str, Any]


def settings_of(places: dict[str, str], steps: int, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a rehearsal: profile paper, but for `steps` steps of each training and a few prompts."""
    small = {"heldout_pairs": 4, "eval_prompts": PROMPTS, "max_new_tokens": NEW_TOKENS, "run": "rehearsal"}
    small |= {"sft_epochs": 1.0, "dpo_epochs": 1.0}
    if "models" in given:
        raise SettingsError(f"a rehearsal trains {', '.join(PAPER_MODELS[1:])}: leave models out")
    wanted = {"profile": "paper", **places, **small, **given}
    s = resolve(**wanted, train_pairs=1).settings
    return wanted | {"train_pairs": steps * max(s.sft_batch_size, s.dpo_batch_size) * s.gradient_accumulation}


def rehearse(out: Path, given: dict[str, Any], stages: Sequence[str] = STAGES) -> Iterator[Rehearsed]:
    """Run stages of profile paper with the settings `given`, each in a fresh process; yield each one as it ends."""
    here = {"COURSE_RESULTS": str((out / RESULTS).resolve())}
    for name in stages:
        with mock.patch.dict(os.environ, here), multiprocessing.get_context("spawn").Pool(1) as pool:
            yield pool.apply(_stage, (name, given))


def _stage(name: str, given: dict[str, Any]) -> Rehearsed:
    from helpers.pipeline import stages
    from helpers.pipeline.run import open_run

    with contextlib.redirect_stdout(io.StringIO()):
        run = open_run(**given)
    start = time.perf_counter()
    counted: dict[str, Any] = {}
    if name == "pairs":
        counted = {"rows": len(stages.pairs(run).train)}
    elif name == "responses":
        stages.responses(run, "sft_dpo")
        counted = _decoding(run)
    elif name == "scores":
        stages.scores(run, "sft_dpo")
        counted = _scoring(run)
    else:
        stages.policy(run, name)
        counted = stages.training_timing(run, name) | {"tokens_max": stages.training_summary(run, name)["tokens_max"]}
    memory = counted.get("peak_memory_gb", peak_memory() / GB) * GB
    return Rehearsed(name, time.perf_counter() - start, memory, counted)


def _decoding(run: Run) -> dict[str, Any]:
    """Seconds to decode a token of each of TIMED answers, the model loaded."""
    from helpers.models import loading
    from helpers.models.generation import generate
    from helpers.pipeline import stages

    s, folder = run.settings, stages.policy(run, "sft_dpo")
    loaded = loading.load_policy(folder, device=s.device), loading.load_tokenizer(folder)
    prompts = list(itertools.islice(itertools.cycle(stages.evaluation_prompts(run)["prompt"]), TIMED))
    start = time.perf_counter()
    answers = generate(loaded, prompts, max_new_tokens=s.max_new_tokens, batch_size=TIMED)
    seconds = time.perf_counter() - start
    return {"rows": TIMED, "seconds_a_step": round(seconds / int(answers["tokens"].max()), 5)}


def _scoring(run: Run) -> dict[str, Any]:
    """FLOP/s of the judge over the responses, the model loaded; tokens without padding."""
    from helpers.models import loading, scoring
    from helpers.pipeline import stages

    loaded = loading.load_reward_model(run.settings.reward_model, run.settings.device)
    rows = stages.responses(run, "sft_dpo")
    prompts, responses = list(rows["prompt"]), list(rows["response"])
    tokens = sum(map(len, scoring.encode_pairs(loaded[1], prompts, responses)["input_ids"]))
    start = time.perf_counter()
    scoring.score(loaded, prompts, responses, batch_size=run.settings.scoring_batch_size)
    seconds = time.perf_counter() - start
    flops = tokens * throughput.forward_flops(sizes.shape_of_model(loaded[0]), tokens / len(rows))
    return {"rows": len(rows), "tokens": tokens, "flops_a_second": round(flops / seconds)}


# ------------------------------------------------------------------------------------------------ what it shows


class Summary(NamedTuple):
    """A rehearsal as it is told: one row a training, and sentences about the whole."""

    rows: list[dict[str, Any]]
    sentences: list[str]


def summarise(given: dict[str, Any], rehearsed: Sequence[Rehearsed], record: bool) -> Summary:
    """Speed and memory of each training beside what was planned, and what the whole would take on this device.

    The rates that were found are kept in results/rates.json, with `record` beside the planner too, for later plans.
    """
    settings = resolve(**given).settings
    device, found = this_device(settings.device), records(settings, rehearsed)
    for path in [results_root() / throughput.RATES.name] + [throughput.RATES] * record:
        throughput.keep_rates(found, path)
    best = {one["precision"]: one["flops_a_second"] for one in found if one["kind"] == "matrix"}
    precision, policy = precision_on(settings, device), sizes.shape_of(given["policy"])
    trained = {one.name: one for one in rehearsed if one.name in ("sft", "dpo", "sft_dpo")}
    longest = {name: one.counted["tokens_max"] for name, one in trained.items()}
    planned = {stage.name: stage for stage in plan.plan(settings, device, longest=longest).stages}
    rows = []
    for name, one in trained.items():
        speed = throughput.training_flops(settings, method_of(name, settings.preference_loss), policy, one.counted)
        rows.append(
            {
                "stage": name,
                "rows_at_once": planned[name].rows_at_once,
                "memory_planned": planned[name].memory + (0 if device.gpu else PROCESS),
                "memory_measured": one.memory,
                "flops_a_second": speed,
                "share": speed / best[precision],
                **{what: one.counted[what] for what in ("steps", "seconds_a_step", "tokens_a_second")},
            }
        )
    whole = plan.plan(resolve(profile="paper", recipe=settings.recipe, device=settings.device).settings, device)
    parts = ", ".join(f"{stage.name} {duration(stage.seconds)}" for stage in whole.stages)
    rates_here = ", ".join(f"{speed / 1e12:.3g} TFLOP/s in {what}" for what, speed in best.items())
    return Summary(
        rows,
        [
            f"{device.name}: matrix products {rates_here}",
            f"the whole of profile paper would take {duration(whole.seconds)} here: {parts}",
        ],
    )


def records(settings: Settings, rehearsed: Sequence[Rehearsed]) -> list[dict[str, Any]]:
    """What the planner wants to know about this device, as `rates.enter` keeps it: FLOP/s of every kind of work."""
    device = this_device(settings.device)
    precision = precision_on(settings, device)
    policy, judge = (sizes.shape_of(getattr(settings, what)) for what in ("policy", "reward_model"))
    by_name = {one.name: one.counted for one in rehearsed}
    shared = {"device": device.name, "date": datetime.date.today().isoformat(), "versions": files.versions()}
    where = "cuda" if device.gpu else "cpu"
    found = [
        {
            "kind": "matrix",
            "precision": p,
            "inside": 1,
            "flops_a_second": round(throughput.matrix_rate(where, p != "float32")),
        }
        for p in dict.fromkeys(["float32", precision])
    ]
    for name in ("sft", "sft_dpo"):
        if counted := by_name.get(name):
            method = method_of(name, settings.preference_loss)
            found.append(throughput.training_record(settings, method, policy, counted, precision))
    if counted := by_name.get("responses"):
        found.append({"kind": "generate", "precision": "float32", "inside": policy.inside, **counted})
    if counted := by_name.get("scores"):
        speed = counted["flops_a_second"]
        found.append({"kind": "score", "precision": "float32", "inside": judge.inside, "flops_a_second": speed})
    return [shared | record for record in found]
