from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from helpers.models.batching import by_length


@given(st.lists(st.integers(1, 512), max_size=60), st.integers(1, 9), st.integers(1, 2000))
def test_every_row_is_in_one_batch_which_fits_and_could_not_take_the_next(lengths, most, room):
    def fits(rows, shortest, longest):
        return rows <= most and rows * longest <= room and longest <= 1.5 * shortest

    batches = list(by_length(lengths, fits))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    own = [[lengths[i] for i in batch] for batch in batches]
    assert [n for batch in own for n in batch] == sorted(lengths)
    assert all(len(batch) == 1 or fits(len(batch), batch[0], batch[-1]) for batch in own)
    assert not any(fits(len(batch) + 1, batch[0], following[0]) for batch, following in pairwise(own))
