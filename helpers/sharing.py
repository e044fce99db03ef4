"""How the rows of a step, and of a look at held-out data, are shared by the processes that train together.

A step takes the same rows in the same order however many processes there are, and gives the same loss and the same
weights within the error of floating-point sums. Accelerate's own sharing differs from that where the rows of an epoch
do not fill the last step (it takes rows twice), and where held-out rows are measured in other batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any
from unittest import mock

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from . import processes
from .errors import SettingsError


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


# ------------------------------------------------------------------------------------------------ rows of a step


@dataclass(frozen=True)
class Piece:
    """The rows of one process in one batch of all.

    weight: what the mean over these rows counts in the mean of all processes, 1 in a full step. spare: there was no
    row left for this process; it goes along with one whose values are thrown away. even: all processes have as many.
    """

    rows: list[int]
    weight: float
    spare: bool
    even: bool


class Dealt(Sampler[Piece]):
    """The pieces of this process, in the order of the rows: a step of all processes takes the rows of one process's.

    order gives the rows of an epoch; per_device and accumulate are `share`'s. whole: the rows in a batch of a process
    that trains by itself: in the last, incomplete step of an epoch the loss stays the mean of their means. (The log's
    other measures are means over the rows of such a step, which differs where batches are summed.)
    """

    def __init__(self, order: Sampler[int], per_device: int, accumulate: int, whole: int) -> None:
        self.order, self.per_device, self.accumulate, self.whole = order, per_device, accumulate, whole
        self.index, self.count = processes.index(), processes.count()

    def __len__(self) -> int:
        return -(-len(self.order) // (self.per_device * self.count))

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[Piece]:
        rows, wide = list(self.order), self.per_device * self.count
        step = wide * self.accumulate
        for start in range(0, len(rows), wide):
            first = start + self.index * self.per_device
            own = range(first, min(first + self.per_device, start + wide, len(rows)))
            of_step = len(rows) - start // step * step  # rows from the first of this step to the last of the epoch
            weight = 1.0 if of_step >= step else self._weight(own, start // step * step, of_step)
            even = start + wide <= len(rows)
            yield Piece([rows[i] for i in own] or rows[:1], weight, not own, even)

    def _weight(self, own: range, first: int, left: int) -> float:
        """For `left` rows from place `first` on: each counts 1 / rows of its batch / batches, as with one process."""
        batches, together = -(-left // self.whole), -(-left // (self.per_device * self.count))
        sizes = (min(self.whole, left - (i - first) // self.whole * self.whole) for i in own)
        return self.count * together / batches * sum(1 / size for size in sizes)


class _Rows(Dataset):
    """A dataset that is asked for pieces."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, piece: Piece) -> tuple[list[dict[str, Any]], Piece]:
        return [self.rows[i] for i in piece.rows], piece


class _Loader(DataLoader):
    """A loader of pieces that tells the sampler which epoch it is."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


def share_steps(trainer: Any, order: Sampler[int], whole: int) -> None:
    """Let the processes share each step of a TRL trainer, with the rows in this order. whole: see `Dealt`."""
    args, compute = trainer.args, trainer.compute_loss

    def collate(found: tuple[list[dict[str, Any]], Piece]) -> dict[str, Any]:
        rows, piece = found
        batch = trainer.data_collator(rows)
        if piece.spare and "labels" in batch:
            batch["labels"][:] = -100  # counts no token
        return batch | {"piece": piece}

    def loader() -> DataLoader:
        pieces = Dealt(order, args.per_device_train_batch_size, args.gradient_accumulation_steps, whole)
        return _Loader(_Rows(trainer.train_dataset), batch_sampler=pieces, collate_fn=collate)

    def loss_of(model: Any, inputs: dict[str, Any], *more: Any, num_items_in_batch: Any = None, **named: Any) -> Any:
        piece = inputs.pop("piece", None)
        named["num_items_in_batch"] = num_items_in_batch
        if piece is None or piece.even:
            loss = compute(model, inputs, *more, **named)
        else:
            with mock.patch.object(trainer.accelerator, "gather", lambda found: _uneven(found, piece.spare)):
                loss = compute(model, inputs, *more, **named)
        # A sum over tokens is divided by those of all processes already; a mean over pairs is not.
        return loss if piece is None or num_items_in_batch is not None else loss * piece.weight

    trainer.get_train_dataloader, trainer.compute_loss = loader, loss_of


def _uneven(found: torch.Tensor, spare: bool) -> torch.Tensor:
    """Put together what processes measured on different numbers of rows, without that of spare ones."""
    own = found.detach().reshape(-1)[: 0 if spare else None].cpu()
    return torch.cat(processes.gathered(own)).to(found.device)


# ------------------------------------------------------------------------------------------------ held-out rows


def share_looks(trainer: Any) -> None:
    """Let the processes share each look of a TRL trainer at held-out rows: whole batches, put together at the end."""

    def evaluate(**_: Any) -> dict[str, float]:
        size = trainer.args.per_device_eval_batch_size
        starts = range(0, len(trainer.eval_dataset), size)
        own = starts[processes.index() :: processes.count()]
        rounds = -(-len(starts) // processes.count())
        trainer.model.eval()
        measured = [_measure(trainer, start, size) for start in [*own, *starts[: rounds - len(own)]]][: len(own)]
        turns = zip_longest(*processes.gathered(measured))
        batches = [batch for turn in turns for batch in turn if batch]
        names = batches[0][2]
        trainer._metrics["eval"].update({name: [values[name] for _, _, values in batches] for name in names})
        loss = sum(rows * loss for rows, loss, _ in batches) / sum(rows for rows, *_ in batches)
        found = {"eval_loss": loss}
        trainer.log(found)
        trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, found)
        return found

    trainer.evaluate = evaluate


def _measure(trainer: Any, start: int, size: int) -> tuple[int, float, dict[str, float]]:
    """(rows, loss, measures) of one batch of held-out rows in this process alone."""
    rows = [trainer.eval_dataset[i] for i in range(start, min(start + size, len(trainer.eval_dataset)))]
    with mock.patch.object(trainer.accelerator, "gather", lambda found: found):
        loss, *_ = trainer.prediction_step(trainer.model, trainer.data_collator(rows), prediction_loss_only=True)
    measures = trainer._metrics["eval"]
    values = {name: found[-1] for name, found in measures.items()}
    measures.clear()
    return len(rows), loss.item(), values
