"""Profile paper tried out without the hub: folders that look like the hub's, random weights, a few steps.

OUT/opt-350m       a config that says float16, pytorch_model.bin, vocab.json and merges.txt; no safetensors, as there
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
from functools import partial
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
from helpers.planning import lengths, throughput
from helpers.planning import plan as planning

POLICY, REWARD_FOLDER, DATASET, RESULTS = "opt-350m", "reward-model", "hh-rlhf", "results"
SPECIAL = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
WORDS_A_TOKEN = 0.75  # English in OPT's tokens, about


def write_folders(out: Path, pairs: int, vocabulary: Path | None = None) -> dict[str, str]:
    """Make the folders that are not there yet; the same every time, 2.5 GB. Returns settings that name them.

    pairs: train pairs of the dialogues. vocabulary: a folder with OPT's vocab.json and merges.txt; without it the
    embedded tokenizer is used, which gives other tokens and the same sizes. Raises DataError when the folder has no
    such files.
    """
    makers = {
        POLICY: partial(_write_policy, vocabulary=vocabulary),
        REWARD_FOLDER: _write_reward_model,
        DATASET: partial(write_dialogues, pairs=pairs),
    }
    for name, make in makers.items():
        # A folder is there when its marker says that it was made for the same arguments.
        target = out / name
        wanted = files.sha256_of_json([name, str(vocabulary), pairs if name == DATASET else 0])
        marker = target / store.MARKER
        if marker.is_file() and marker.read_text() == wanted:
            continue
        # Make it beside its place, and move it in when it is whole.
        work = target.with_name(f".{name}.partial")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        with files.plain_disk_errors(f"writing {name}"):
            make(work)
            (work / store.MARKER).write_text(wanted)
            store.swap_in(work, target)
    places = {"policy": POLICY, "reward_model": REWARD_FOLDER, "dataset": DATASET}
    return {setting: str((out / name).resolve()) for setting, name in places.items()}


def write_tokenizer(folder: Path, vocabulary: Path | None) -> None:
    """OPT's tokenizer as its repository has it: vocab.json, merges.txt and the settings that put </s> in front.

    vocabulary: as in `write_folders`.
    """
    # Pieces and merges: those of the embedded tokenizer, or those that were given.
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
    # Settings and special tokens; a tokenizer without its model needs a config too.
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
    """The entries of a config.json that a config class takes for sizes."""
    others = ("model_type", "architectures", "torch_dtype", "id2label")
    return {name: value for name, value in stated.items() if name not in others}


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
                    # Draw the prompt's length, and put as much before the pair as is missing.
                    words = int(WORDS_A_TOKEN * draw.choice(percentiles))
                    history = _history(rows, words - len(row["chosen"].split()), draw)
                    dialogues = {"chosen": history + row["chosen"], "rejected": history + row["rejected"]}
                    file.write(json.dumps(dialogues) + "\n")


def _history(rows: list[dict], words: int, draw: random.Random) -> str:
    """Dialogues drawn from rows, one after another, until they have so many words."""
    text = ""
    while words > 0:
        text += draw.choice(rows)["chosen"]
        words -= len(text.split())
    return text


STAGES = ("pairs", "sft", "dpo", "sft_dpo", "responses", "scores")
PROMPTS = 2  # a side
NEW_TOKENS, TIMED = 16, 16  # tokens of a response, and responses at once where decoding is timed


class Rehearsed(NamedTuple):
    """One stage as it ran in a process of its own: seconds, peak memory in bytes, and what was counted."""

    name: str
    seconds: float
    memory: float
    counted: dict[str, Any]


def settings_of(places: dict[str, str], steps: int, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a rehearsal: profile paper, but for `steps` steps of each training and a few prompts.

    places: what `write_folders` gave. given: settings that win over these. Raises SettingsError for setting models.
    """
    small = {"heldout_pairs": 4, "eval_prompts": PROMPTS, "max_new_tokens": NEW_TOKENS, "run": "rehearsal"}
    small |= {"sft_epochs": 1.0, "dpo_epochs": 1.0}
    if "models" in given:
        raise SettingsError(f"a rehearsal trains {', '.join(PAPER_MODELS[1:])}: leave models out")
    wanted = {"profile": "paper", **places, **small, **given}
    s = resolve(**wanted, train_pairs=1).settings
    return wanted | {"train_pairs": steps * max(s.sft_batch_size, s.dpo_batch_size) * s.gradient_accumulation}


def rehearse(out: Path, given: dict[str, Any], stages: Sequence[str] = STAGES) -> Iterator[Rehearsed]:
    """Run stages of profile paper with the settings `given`, each in a fresh process; yield each one as it ends.

    out: the folder of `write_folders`. stages: some of STAGES, in their order.
    """
    here = {"COURSE_RESULTS": str((out / RESULTS).resolve())}
    for name in stages:
        with mock.patch.dict(os.environ, here), multiprocessing.get_context("spawn").Pool(1) as pool:
            yield pool.apply(_stage, (name, given))


def _stage(name: str, given: dict[str, Any]) -> Rehearsed:
    """Build one stage in this process, and count what it is measured by."""
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
        counted = stages.training_timing(run, name)
        counted["tokens_max"] = stages.training_summary(run, name)["tokens_max"]
    # Trainings have measured their peak themselves.
    memory = counted.get("peak_memory_gb", peak_memory() / GB) * GB
    return Rehearsed(name, time.perf_counter() - start, memory, counted)


def _decoding(run: Run) -> dict[str, Any]:
    """Seconds to decode a token of each of TIMED responses, the model loaded."""
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
    """FLOP/s of the reward model over the responses, the model loaded; tokens without padding."""
    from helpers.models import loading, scoring
    from helpers.pipeline import stages

    # What it reads.
    loaded = loading.load_reward_model(run.settings.reward_model, run.settings.device)
    rows = stages.responses(run, "sft_dpo")
    prompts, responses = list(rows["prompt"]), list(rows["response"])
    tokens = sum(map(len, scoring.encode_pairs(loaded[1], prompts, responses)["input_ids"]))
    # How long it takes.
    start = time.perf_counter()
    scoring.score(loaded, prompts, responses, batch_size=run.settings.scoring_batch_size)
    seconds = time.perf_counter() - start
    flops = tokens * throughput.forward_flops(sizes.shape_of_model(loaded[0]), tokens / len(rows))
    return {"rows": len(rows), "tokens": tokens, "flops_a_second": round(flops / seconds)}


class Summary(NamedTuple):
    """What is shown of a rehearsal: one row a training, and sentences about the whole."""

    rows: list[dict[str, Any]]
    sentences: list[str]


def summarise(given: dict[str, Any], rehearsed: Sequence[Rehearsed], record: bool) -> Summary:
    """Speed and memory of each training beside what was planned, and what the whole would take on this device.

    given: the settings of the rehearsal. rehearsed: what `rehearse` gave. The rates that were found are kept in
    results/rates.json, with `record` beside the planner too, for later plans.
    """
    settings = resolve(**given).settings
    device = this_device(settings.device)
    # Keep the rates.
    found = records(settings, rehearsed)
    throughput.keep_rates(found, results_root() / throughput.RATES.name)
    if record:
        throughput.keep_rates(found, throughput.RATES)
    # The most that the device can do, by precision.
    best = {one["precision"]: one["flops_a_second"] for one in found if one["kind"] == "matrix"}
    precision, policy = precision_on(settings, device), sizes.shape_of(given["policy"])
    # Each training beside its plan for rows of the same length.
    trained = {one.name: one for one in rehearsed if one.name in ("sft", "dpo", "sft_dpo")}
    longest = {name: one.counted["tokens_max"] for name, one in trained.items()}
    planned = {stage.name: stage for stage in planning.plan(settings, device, longest=longest).stages}
    outside = 0 if device.gpu else PROCESS
    rows = []
    for name, one in trained.items():
        speed = throughput.training_flops(settings, method_of(name, settings.preference_loss), policy, one.counted)
        rows.append(
            {
                "stage": name,
                "rows_at_once": planned[name].rows_at_once,
                "memory_planned": planned[name].memory + outside,
                "memory_measured": one.memory,
                "flops_a_second": speed,
                "share": speed / best[precision],
                "steps": one.counted["steps"],
                "seconds_a_step": one.counted["seconds_a_step"],
                "tokens_a_second": one.counted["tokens_a_second"],
            }
        )
    # The whole of profile paper, by the rates of now.
    paper = resolve(profile="paper", recipe=settings.recipe, device=settings.device).settings
    whole = planning.plan(paper, device)
    parts = ", ".join(f"{stage.name} {duration(stage.seconds)}" for stage in whole.stages)
    rates_here = ", ".join(f"{speed / 1e12:.3g} TFLOP/s in {what}" for what, speed in best.items())
    here = f"{device.name}: matrix products {rates_here}"
    return Summary(rows, [here, f"the whole of profile paper would take {duration(whole.seconds)} here: {parts}"])


def records(settings: Settings, rehearsed: Sequence[Rehearsed]) -> list[dict[str, Any]]:
    """What the planner knows a device by, for `throughput.keep_rates`: FLOP/s of every kind of work that was done."""
    device = this_device(settings.device)
    precision = precision_on(settings, device)
    policy, scorer = sizes.shape_of(settings.policy), sizes.shape_of(settings.reward_model)
    by_name = {one.name: one.counted for one in rehearsed}
    found: list[dict[str, Any]] = []
    # Matrix products, in float32 and in the precision of the trainings.
    where = "cuda" if device.gpu else "cpu"
    for used in dict.fromkeys(["float32", precision]):
        speed = round(throughput.matrix_rate(where, used != "float32"))
        found.append({"kind": "matrix", "precision": used, "inside": 1, "flops_a_second": speed})
    # Trainings, decoding and scoring.
    for name in ("sft", "sft_dpo"):
        if counted := by_name.get(name):
            method = method_of(name, settings.preference_loss)
            found.append(throughput.training_record(settings, method, policy, counted, precision))
    if counted := by_name.get("responses"):
        found.append({"kind": "generate", "precision": "float32", "inside": policy.inside, **counted})
    if counted := by_name.get("scores"):
        speed = counted["flops_a_second"]
        found.append({"kind": "score", "precision": "float32", "inside": scorer.inside, "flops_a_second": speed})
    shared = {"device": device.name, "date": datetime.date.today().isoformat(), "versions": files.versions()}
    return [shared | record for record in found]
