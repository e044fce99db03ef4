"""The rows of a training step: how many are in a batch on a device, and in which order all rows come.

Accelerate shares the batches among several processes in turns. Where the last step of an epoch is not full, it takes
rows from the beginning of the order again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from helpers.core.errors import SettingsError

POOL = 16  # steps whose rows are sorted by length together


def share(batch: int, accumulate: int, processes: int = 1, at_once: int = 0) -> tuple[int, int]:
    """How a training step of batch * accumulate rows is divided among processes and batches.

    batch, accumulate: the largest batch of one process, and how many batches of that size make up a step. processes:
    among which a step is divided. at_once: the most rows that a device may hold, 0 for no limit.

    Returns (rows in a batch, batches whose gradients a process sums before a step). Raises SettingsError when a step
    cannot be divided evenly among the processes.
    """
    # Rows of a step for each process.
    rows, rest = divmod(batch * accumulate, processes)
    if rest:
        raise SettingsError(
            f"a step of {batch * accumulate} rows cannot be shared evenly by {processes} processes: change the batch "
            "size or the number of processes"
        )
    # The largest batch that divides them evenly.
    most = min(batch, rows, at_once or rows)
    per_device = max(n for n in range(1, most + 1) if rows % n == 0)
    return per_device, rows // per_device


class LengthGroups(Sampler[int]):
    """A random order in which the rows of a step have like lengths, so that little is computed on padding.

    lengths: tokens of each row. step: rows of a training step, over all devices. seed: of the random order. The order
    depends on seed and epoch alone, so that a resumed training and every process find the same one. Transformers' own
    group_by_length is not used: it draws from the global generator, which a resumed training cannot set back, and it
    sorts from long to short, which shows in the curve of the loss.
    """

    def __init__(self, lengths: Sequence[int], step: int, seed: int) -> None:
        self.lengths, self.step, self.seed, self.epoch = lengths, step, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order comes next; accelerate's data loader calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        # A random order of all rows.
        generator = torch.Generator().manual_seed(self.seed * 10_000 + self.epoch)
        rows = torch.randperm(len(self.lengths), generator=generator).tolist()
        # Sort by length within pools of several steps. The rows of an incomplete last step are not sorted.
        full = len(rows) // self.step * self.step
        near: list[int] = []
        for start in range(0, full, POOL * self.step):
            pool = rows[start : min(start + POOL * self.step, full)]
            near += sorted(pool, key=self.lengths.__getitem__)
        # Take the steps in random order, so that neither short nor long rows come first.
        for step in torch.randperm(full // self.step, generator=generator).tolist():
            yield from near[step * self.step : (step + 1) * self.step]
        yield from rows[full:]
