"""Which rows a training step takes: how many at once on a device, and in which order.

Several processes share a step as accelerate does it: batch after batch of the order goes to the next process. Where
the rows of an epoch do not fill its last step, accelerate takes rows from the beginning of the order once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from helpers.core.errors import SettingsError

POOL = 16  # steps whose rows are sorted by length together


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
    """Rows in random order, but with neighbours of like length in a step, so that little is computed on padding.

    lengths: tokens of each row. step: rows of a training step, over all devices. The order depends on seed and epoch
    alone, so that a resumed training and every process find the same one. (Transformers' group_by_length draws it from
    the global generator, which a resumed training cannot rewind, and runs from long to short, which shows in every
    curve.)
    """

    def __init__(self, lengths: Sequence[int], step: int, seed: int) -> None:
        self.lengths, self.step, self.seed, self.epoch = lengths, step, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; accelerate's data loader calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 10_000 + self.epoch)
        rows = torch.randperm(len(self.lengths), generator=generator).tolist()
        # Only the rows of full steps are sorted; those of an incomplete one stay last.
        full = len(rows) // self.step * self.step
        near: list[int] = []
        for start in range(0, full, POOL * self.step):
            pool = rows[start : min(start + POOL * self.step, full)]
            near += sorted(pool, key=self.lengths.__getitem__)
        # The steps come in random order: neither short nor long rows come first.
        for step in torch.randperm(full // self.step, generator=generator).tolist():
            yield from near[step * self.step : (step + 1) * self.step]
        yield from rows[full:]
