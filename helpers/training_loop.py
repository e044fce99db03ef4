"""What the trainings have in common: the configuration, the order of rows, checks, watching, resuming, the report.

On a CPU a resumed training gives the same bytes as an undisturbed one: checkpoints fall on logging steps, after the
look at held-out data, and the order of the rows depends on seed and epoch alone.
"""

from __future__ import annotations

import math
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback

from . import processes
from .errors import CourseError, DataError, SettingsError
from .folders import read_json, write_json
from .generation import generate
from .models import count_parameters, pick_device, quiet, wants_bfloat16

if TYPE_CHECKING:
    from datasets import Dataset

    from .settings import Settings

LOGGED, EVALUATED, SAVED = 50, 4, 4  # rows in the log, looks at held-out data, checkpoints: about, per training
SAMPLED = 24  # held-out prompts that are answered at each look
LN_2 = math.log(2)
MEASURED = ["loss", "grad_norm", "learning_rate"]
MEASURED += [f"rewards/{what}" for what in ("chosen", "rejected", "margins", "accuracies")]
MEASURED += ["logps/chosen", "logps/rejected", "entropy", "mean_token_accuracy", "accuracy", "margin"]
MEASURED += ["generated_length", "eos_rate"]
WHOLE = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")  # besides the weights


def plan(
    config: type, settings: Settings, out: Path, *, epochs: float, rate: float, batch: int, accumulate: int = 1, **more
):
    """The TRL configuration shared by all trainings, `more` on top. What is not named here is TRL's default.

    A step takes batch * accumulate rows, however many processes share them and however few are on a device at once.
    """
    per_device, accumulate = share(batch, accumulate, processes.count(), settings.rows_at_once)
    shared = {
        "output_dir": str(out / "checkpoints"),
        "num_train_epochs": epochs,
        "learning_rate": rate,
        "per_device_train_batch_size": per_device,
        "per_device_eval_batch_size": 2 * batch,  # nothing is kept for a backward pass
        "gradient_accumulation_steps": accumulate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,  # a share of all steps
        "max_grad_norm": 1.0,
        "seed": settings.seed,
        "use_cpu": pick_device(settings.device) != "cuda",
        "bf16": wants_bfloat16(settings),
        "activation_checkpointing": settings.activation_checkpointing,
        "logging_nan_inf_filter": False,  # a loss that is not a number shall show
        "logging_strategy": "no",  # _Watch says when to log, evaluate and save
        "eval_strategy": "no",
        "save_strategy": "no",
        "save_total_limit": 1,
        "disable_tqdm": True,
        "report_to": "none",
    }
    with quiet():
        return config(**(shared | more))


def share(batch: int, accumulate: int, processes: int = 1, at_once: int = 0) -> tuple[int, int]:
    """(rows on a device at once, batches summed before a step) that make up steps of batch * accumulate rows.

    at_once: the most rows a device may hold (0: no limit). Raises SettingsError when the rows of a step cannot be
    shared evenly by the processes.
    """
    rows, rest = divmod(batch * accumulate, processes)
    if rest:
        raise SettingsError(
            f"a step of {batch * accumulate} rows cannot be shared evenly by {processes} processes: change the batch "
            "size or the number of processes"
        )
    most = min(batch, rows, at_once or rows)
    per_device = max(n for n in range(1, most + 1) if rows % n == 0)
    return per_device, rows // per_device


def dataset(rows: pd.DataFrame) -> Dataset:
    """A dataset in memory, so that nothing is cached in the user's home. Raises DataError when it would be empty."""
    from datasets import Dataset

    if rows.empty:
        raise DataError("no rows to train on or to hold out: give more pairs or a greater max_length setting")
    return Dataset.from_pandas(rows, preserve_index=False)


def check_rows(trainer, given: int, ids: Sequence[Sequence[int]], end: int, name: str) -> dict[str, Any]:
    """Make sure that every row of token ids that fits ends with token `end`; count what TRL dropped and what it cuts.

    Returns the counts for summary.json. Raises DataError when no row is left, CourseError when a row does not end.
    """
    used, limit = len(trainer.train_dataset), trainer.args.max_length
    if not used:
        raise DataError(f"every training row is longer than {limit} tokens: raise the max_length setting")
    endless = sum(row[-1] != end for row in ids if len(row) < limit)
    if endless:
        raise CourseError(
            f"{endless} of {len(ids)} training rows do not end with {name}, so the model would never learn to stop: "
            "check the tokenizer's special tokens"
        )
    lengths = [min(len(row), limit) for row in ids]
    trainable, parameters = count_parameters(trainer.model)
    return {
        "rows_given": given,
        "rows_used": used,
        "rows_dropped": given - used,
        "rows_cut": sum(row[:limit][-1] != end for row in ids),
        "tokens_mean": round(sum(lengths) / len(lengths), 1),
        "tokens_max": max(lengths),
        "trainable_parameters": trainable,
        "parameters": parameters,
        "example": {"first_ids": list(ids[0][:8]), "last_ids": list(ids[0][:limit][-8:]), "eos_token_id": end},
    }


def check_prompts(prompts: Sequence[str], tokenizer, ids: Sequence[Sequence[int]]) -> None:
    """Every row must begin with its prompt's own tokens: what is seen in training is what will be seen in use."""
    encoded = tokenizer(list(prompts))["input_ids"]
    wrong = [i for i, (prompt, row) in enumerate(zip(encoded, ids, strict=True)) if list(row[: len(prompt)]) != prompt]
    if wrong:
        raise CourseError(
            f"{len(wrong)} of {len(encoded)} prompts change their last tokens when the completion follows (the first "
            f"ends {prompts[wrong[0]][-20:]!r}): end prompts with 'Assistant:' and begin completions with a space"
        )


class LengthGroups(Sampler[int]):
    """Rows in random order, but with neighbours of like length in a batch, so that little is computed on padding.

    The order depends on seed and epoch alone. (Transformers' group_by_length draws it from the global generator,
    which a resumed training cannot rewind, and runs from long to short, which shows in every curve.)
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 10_000 + self.epoch)
        rows = torch.randperm(len(self.lengths), generator=generator).tolist()
        full = len(rows) // self.batch * self.batch  # an incomplete batch stays last
        pool = 16 * self.batch
        pools = [sorted(rows[i : min(i + pool, full)], key=self.lengths.__getitem__) for i in range(0, full, pool)]
        near = [row for pool in pools for row in pool]
        for batch in torch.randperm(full // self.batch, generator=generator).tolist():
            yield from near[batch * self.batch : (batch + 1) * self.batch]
        yield from rows[full:]


class _Watch(TrainerCallback):
    """Says when to log, evaluate and save; answers held-out prompts; stops a training that went wrong."""

    def __init__(self, trainer, settings, prompts, progress, starts_at_ln_2) -> None:
        self.trainer, self.settings, self.progress = trainer, settings, progress
        self.prompts, self.starts_at_ln_2 = list(prompts)[:SAMPLED], starts_at_ln_2
        self.began, self.stepping = 0.0, 0.0  # seconds spent on steps, without looks at held-out data and checkpoints

    def on_step_begin(self, args, state, control, **_) -> None:
        self.began = time.perf_counter()

    def on_train_begin(self, args, state, control, **_) -> None:
        if state.global_step == 0:
            self.trainer.evaluate()

    def on_step_end(self, args, state, control, **_) -> None:
        self.stepping += time.perf_counter() - self.began
        step, last = state.global_step, state.max_steps
        control.should_evaluate = step in _marks(last, EVALUATED)
        control.should_save = step in _marks(last, SAVED + 1)[:-1]
        # A checkpoint holds no half-filled averages, so each one comes right after a log row.
        due = step == 1 or step == last or step % max(1, last // LOGGED) == 0
        control.should_log = due or control.should_evaluate or control.should_save
        if self.progress:
            self.progress(step, last)

    def on_log(self, args, state, control, logs=None, **_) -> None:
        loss = logs.get("loss", logs.get("eval_loss", 0.0))
        if not math.isfinite(loss):
            raise CourseError(f"the loss is {loss} at step {state.global_step}: lower the learning rate and run again")
        first = ("eval_loss" in logs and state.global_step == 0) or ("loss" in logs and state.global_step == 1)
        if first and self.starts_at_ln_2 and abs(loss - LN_2) > 1e-4:
            raise CourseError(
                f"DPO starts at loss {loss:.4f} instead of ln 2 = {LN_2:.4f}: policy and reference model differ "
                "before the first step. Known causes: dropout is on (OPT ignores TRL's disable_dropout), the "
                "reference is another model, or the policy already carries an adapter"
            )

    def on_evaluate(self, args, state, control, model=None, **_) -> None:
        if self.prompts:
            answers = generate(
                (model, self.trainer.processing_class),
                self.prompts,
                max_new_tokens=self.settings.max_new_tokens,
                batch_size=self.settings.generation_batch_size,
            )
            state.log_history[-1] |= {
                "generated_length": float(answers["tokens"].mean()),
                "eos_rate": float(answers["ended"].mean()),
            }


def _marks(steps: int, parts: int) -> list[int]:
    """The last step of each of `parts` equal parts."""
    return [math.ceil(steps * part / parts) for part in range(1, parts + 1)]


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in a folder, or None. Ones that were being written or deleted are removed."""
    whole = {}
    for checkpoint in folder.glob("checkpoint-*"):
        weights = [checkpoint / name for name in ("model.safetensors", "adapter_model.safetensors")]
        step = read_json(checkpoint / WHOLE[0]).get("global_step")  # written last: {} when it is not whole
        if (
            step is not None
            and all((checkpoint / name).exists() for name in WHOLE)
            and any(w.exists() for w in weights)
        ):
            whole[step] = str(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    return whole[max(whole)] if whole else None


def run(
    trainer,
    settings: Settings,
    lengths: Sequence[int],
    *,
    prompts: Sequence[str] = (),
    starts_at_ln_2: bool = False,
    progress: Callable[[int, int], None] | None = None,
    tokens: int | None = None,
) -> None:
    """Train, from the last whole checkpoint if there is one, and write timing.json.

    `lengths` are the tokens of each row in the longest of its sequences, `tokens` those of all rows and sequences.
    """
    args = trainer.args
    if settings.recipe == "recommended":  # the published one drew rows one by one
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        order = LengthGroups(lengths, batch, settings.seed)
        trainer._get_train_sampler = lambda *_: order
    trainer.remove_callback(PrinterCallback)
    watch = _Watch(trainer, settings, prompts, progress, starts_at_ln_2)
    trainer.add_callback(watch)
    checkpoint = last_checkpoint(Path(args.output_dir))
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    steps = trainer.state.global_step - (read_json(Path(checkpoint) / WHOLE[0])["global_step"] if checkpoint else 0)
    seen = args.num_train_epochs * (sum(lengths) if tokens is None else tokens) * steps / trainer.state.max_steps
    timing = _timing(time.perf_counter() - start, watch.stepping, steps, seen)
    write_json(Path(args.output_dir).parent / "timing.json", timing)


def _timing(seconds: float, stepping: float, steps: int, tokens: float) -> dict[str, Any]:
    """What a training took since it began or went on. Apart from summary.json: equal trainings have equal summaries.

    `seconds` is everything, the rest without looks at held-out data and checkpoints. peak_memory_gb: what torch took on
    a GPU, else the whole process.
    """
    on_gpu = torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
    return {
        "seconds": round(seconds, 2),
        "steps": steps,
        "seconds_a_step": round(stepping / max(steps, 1), 4),
        "tokens_a_second": round(tokens / max(stepping, 1e-9), 1),
        "peak_memory_gb": round((torch.cuda.max_memory_allocated() if on_gpu else peak_memory()) / 1e9, 3),
        "device": torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads",
    }


def peak_memory() -> int:
    """The most memory in bytes that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def report(trainer, out: Path, counts: dict[str, Any]) -> None:
    """Write log.csv (one row a log event, split "train" or "heldout") and summary.json."""
    rows = []
    for event in trainer.state.log_history:
        split = "train" if "loss" in event else "heldout"
        named = {name.removeprefix("eval_").replace("/", "_"): value for name, value in event.items()}
        if "loss" in named:
            rows.append(named | {"split": split})
    columns = ["step", "epoch", "split", *(name.replace("/", "_") for name in MEASURED)]
    log = pd.DataFrame(rows).reindex(columns=columns).dropna(axis="columns", how="all")
    log.to_csv(out / "log.csv", index=False)
    losses = {split: log.loc[log["split"] == split, "loss"].tolist() for split in ("train", "heldout")}
    write_json(
        out / "summary.json",
        counts
        | {
            "steps": trainer.state.global_step,
            "first_loss": losses["train"][0],
            "last_loss": losses["train"][-1],
            "heldout_first_loss": losses["heldout"][0],
            "heldout_last_loss": losses["heldout"][-1],
        },
    )
