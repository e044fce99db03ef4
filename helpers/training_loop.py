"""What the trainings have in common: the configuration, the order of rows, checks, watching, resuming, the report.

On a CPU a resumed training gives the same bytes as an undisturbed one: checkpoints fall on logging steps, after the
look at held-out data, and the order of the rows depends on seed and epoch alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import pandas as pd
import torch
from accelerate.data_loader import SeedableRandomSampler
from accelerate.utils.memory import clear_device_cache
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from . import checkpoints, processes
from .errors import CourseError, DataError, SettingsError
from .families import positions
from .folders import write_json
from .generation import generate
from .hardware import pick_device, this_device, wants_bfloat16
from .models import count_parameters, quiet
from .planning import plan as planning
from .planning.shapes import shape_of_model
from .samplers import LengthGroups, share
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from .methods import Method
    from .settings import Settings

Fitting = tuple[int, bool] | None  # rows at once, and whether activations are computed again
LOGGED, EVALUATED, SAVED = 50, 4, 4  # rows in the log, looks at held-out data, checkpoints: about, per training
SAMPLED = 24  # held-out prompts that are answered at each look
MEASURED = ["loss", "grad_norm", "learning_rate"]
MEASURED += [f"rewards/{what}" for what in ("chosen", "rejected", "margins", "accuracies")]
MEASURED += ["logps/chosen", "logps/rejected", "entropy", "mean_token_accuracy", "accuracy", "margin"]
MEASURED += ["generated_length", "eos_rate"]


def checkpointing_field() -> str:
    """The field of transformers' TrainingArguments that turns activation checkpointing on or off.

    It is `activation_checkpointing` from transformers 5.23.0 on and was `gradient_checkpointing` before.
    """
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    return "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"


class Start(NamedTuple):
    """The loss with which a training must begin: its name, value and how far it may be missed, and what to blame."""

    training: str
    name: str
    loss: float
    near: float
    cause: str


def plan(
    config: type, settings: Settings, out: Path, *, epochs: float, rate: float, batch: int, accumulate: int = 1,
    fitting: Fitting = None, **more,
):  # fmt: skip
    """The TRL configuration shared by all trainings, `more` on top. What is not named here is TRL's default.

    A step takes batch * accumulate rows, however many processes share them and however few are on a device at once:
    all of a process's share, or as many as `fits` says.
    """
    processes.refuse_alone("a training")
    clear_device_cache(garbage_collection=True)  # trainers hold themselves: the one before goes when it is looked for
    at_once, checkpointing = fitting or (settings.rows_at_once, settings.activation_checkpointing)
    per_device, accumulate = share(batch, accumulate, processes.count(), at_once)
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
        checkpointing_field(): checkpointing,
        "logging_nan_inf_filter": False,  # a loss that is not a number shall show
        "logging_strategy": "no",  # _Watch says when to log, evaluate and save
        "eval_strategy": "no",
        "save_strategy": "no",
        "save_total_limit": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "log_level_replica": "error",  # of several processes the main one alone prints warnings
        "ddp_find_unused_parameters": False,  # every trained weight has a part in every loss
    }
    with quiet():
        made = config(**(shared | more))
    made._n_gpu = min(made.n_gpu, 1)  # a process has one GPU; more of them take more processes: see `launch`
    return made


def fits(settings: Settings, method: Method, model: torch.nn.Module) -> Fitting:
    """How a training of a model fits into this device's memory; None where weights are in parts (FSDP).

    Raises DataError when not even one row does, SettingsError when a row may be longer than the policy can see.
    """
    limit = f"{method.prefix}_max_length"
    longest, sees = getattr(settings, limit), positions(model.config)
    if sees is not None and longest > sees:
        raise SettingsError(f"{limit} = {longest}, but this policy sees {sees} tokens: lower it to {sees}")
    if processes.sharded():
        return None
    device = this_device(settings.device)
    found = planning.fit(settings, method, shape_of_model(model), device, processes.count())
    rows, checkpointing = min(processes.gathered(found))  # alike in all processes: what the smallest device holds
    if not rows:
        raise DataError(
            f"{method.title} of this policy does not fit into {device.name} ({device.memory / 1e9:.0f} GB), not even "
            f"one row at once: lower {limit}, or see `python -m helpers plan --profile {settings.profile}`"
        )
    return rows, checkpointing


def dataset(rows: pd.DataFrame) -> Dataset:
    """A dataset in memory, so that nothing is cached in the user's home. Raises DataError when it would be empty."""
    from datasets import Dataset

    if rows.empty:
        raise DataError("no rows to train on or to hold out: give more pairs or a greater max_length setting")
    return Dataset.from_pandas(rows, preserve_index=False)


@contextmanager
def labelled_only() -> Iterator[None]:
    """Let TRL multiply only positions that have a label with the output head, on a processor as it does on a GPU.

    Elsewhere it scores prompts and padding too and drops the result, because devices that compile would do so again
    for every new shape. A processor compiles nothing: the loss is the same, and most of the head's work is saved.
    """
    from trl.trainer import utils

    asked = "_use_triton"  # TRL 1.16's question before it picks positions; a version that asks nothing stays as it is
    with mock.patch.object(utils, asked, lambda _: True) if hasattr(utils, asked) else nullcontext():
        yield


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


def check_prompts(prompts: Sequence[str], completions: Sequence[str], tokenizer) -> None:
    """Every row must begin with its prompt's own tokens: what is seen in training is what will be seen in use.

    The rows are encoded here, since TRL 1.12 puts a prompt's own tokens before a completion's, fit or not.
    Raises CourseError when the tokens of a prompt change with the completion that follows.
    """
    encoded = tokenizer(list(prompts))["input_ids"]
    ids = tokenizer([prompt + completion for prompt, completion in zip(prompts, completions, strict=True)])["input_ids"]
    wrong = [i for i, (prompt, row) in enumerate(zip(encoded, ids, strict=True)) if row[: len(prompt)] != prompt]
    if wrong:
        first = prompts[wrong[0]]
        mend = "end prompts with 'Assistant:' and begin completions with a space"
        if first.endswith("Assistant:"):
            mend = (
                "this tokenizer joins the colon with what follows, so take a policy with another tokenizer, or train "
                "on whole dialogues (SFT: completion_only=False)"
            )
        raise CourseError(
            f"{len(wrong)} of {len(encoded)} prompts change their last tokens when the completion follows (the first "
            f"ends {first[-20:]!r}): {mend}"
        )


class _Watch(TrainerCallback):
    """Says when to log, evaluate and save; answers held-out prompts; stops a training that went wrong."""

    def __init__(self, trainer, settings, order, prompts, progress, starts_at: Start | None) -> None:
        self.trainer, self.settings, self.order, self.progress = trainer, settings, order, progress
        self.prompts, self.starts_at = list(prompts)[:SAMPLED], starts_at

    def on_train_begin(self, args, state, control, **_) -> None:
        if processes.index():  # else all processes would drop the same units in dropout
            torch.manual_seed(args.seed + processes.index())
        if state.global_step == 0:
            self.trainer.evaluate()

    def on_epoch_begin(self, args, state, control, **_) -> None:
        # Accelerate says the epoch too, but not where several processes go on in the middle of one: there its loader
        # skips batches of a shard, and the sampler below these two hears nothing.
        self.order.set_epoch(int(state.epoch))

    def on_step_end(self, args, state, control, **_) -> None:
        step, last = state.global_step, state.max_steps
        control.should_evaluate = step in _marks(last, EVALUATED)
        control.should_save = step < last and step in _marks(last, SAVED + 1)
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
        expected = self.starts_at
        if first and expected and abs(loss - expected.loss) > expected.near:
            raise CourseError(
                f"{expected.training} starts at loss {loss:.4f} instead of {expected.name} = {expected.loss:.4f}: "
                f"{expected.cause}"
            )

    def on_evaluate(self, args, state, control, model=None, **_) -> None:
        if self.prompts:  # in every process all of them: one batch, and nobody waits for another one's answers
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


def run(
    trainer,
    settings: Settings,
    lengths: Sequence[int],
    *,
    prompts: Sequence[str] = (),
    starts_at: Start | None = None,
    progress: Callable[[int, int], None] | None = None,
    sequences: Sequence[int] = (),
) -> None:
    """Train, from the last whole checkpoint if there is one, and write timing.json.

    lengths: tokens of each row, of its longest sequence. sequences: tokens of every sequence, where a row has several.
    starts_at: what the first losses must be (None: they may be anything).
    """
    args = trainer.args
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * processes.count()
    if settings.recipe == "recommended":
        order = LengthGroups(lengths, rows, settings.seed)
    else:
        order = SeedableRandomSampler(trainer.train_dataset, data_seed=settings.seed)  # what accelerate would make
    trainer._get_train_sampler = lambda *_: order
    trainer.remove_callback(PrinterCallback)
    watch, stopwatch = _Watch(trainer, settings, order, prompts, progress, starts_at), Stopwatch()
    trainer.add_callback(watch)
    trainer.add_callback(stopwatch)
    try:
        trainer.train(resume_from_checkpoint=checkpoints.last_checkpoint(Path(args.output_dir)))
    except torch.OutOfMemoryError:
        at_once = args.per_device_train_batch_size
        raise CourseError(
            f"the GPU's memory is too small for {at_once} rows at once: run again with -p rows_at_once="
            f"{max(1, at_once // 2)}"
            + ("" if getattr(args, checkpointing_field()) else " or -p activation_checkpointing=True")
        ) from None
    if processes.is_main():
        tokens = [min(length, args.max_length) for length in sequences or lengths]
        a_step = args.num_train_epochs * sum(tokens) / trainer.state.max_steps
        timing = stopwatch.read(a_step, sum(tokens) / len(tokens))
        write_json(Path(args.output_dir).parent / "timing.json", timing)


def save(trainer, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Write what was trained, a model or an adapter, whole and from the main process, with its tokenizer if given."""
    model, named = trainer.model, {}
    if trainer.is_fsdp_enabled:  # each process holds a part of the weights: all of them help to put the whole together
        whole = trainer.accelerator.get_state_dict(model)
        tied = {copy: whole[name] for copy, name in model.all_tied_weights_keys.items() if copy in whole}
        named = {"state_dict": whole | tied}
    if processes.is_main():
        with quiet():
            model.save_pretrained(folder, **named)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)


def report(trainer, out: Path, counts: dict[str, Any]) -> None:
    """Write log.csv (one row a log event, split "train" or "heldout") and summary.json."""
    if not processes.is_main():
        return
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
