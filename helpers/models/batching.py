"""Batches of rows of like length: all of a batch's rows are computed as long as its longest one."""

from collections.abc import Callable, Iterator, Sequence


def by_length(lengths: Sequence[int], fits: Callable[[int, int, int], bool]) -> Iterator[list[int]]:
    """The numbers of the rows, batch by batch, the shortest rows first; as many together as `fits` lets in, never none.

    lengths: tokens of each row. fits(rows, shortest, longest): whether a batch of so many rows, with these lengths
    among them, may be.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and not fits(len(batch) + 1, lengths[batch[0]], lengths[i]):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
