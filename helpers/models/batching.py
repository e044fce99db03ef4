"""Batches of rows of like length, so that little is computed on padding: a batch is padded to its longest row."""

from collections.abc import Callable, Iterator, Sequence


def by_length(lengths: Sequence[int], allowed: Callable[[int, int, int], bool]) -> Iterator[list[int]]:
    """Divide rows into batches, the shortest rows first, each batch as large as allowed.

    lengths: tokens of each row. allowed: a function of (rows, shortest length, longest length) that says whether there
    may be such a batch; one row alone always may. Yields for each batch the numbers of its rows.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Close the batch when this row, its longest, would make it too large.
        if batch and not allowed(len(batch) + 1, lengths[batch[0]], lengths[i]):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
