"""Sums over molecules and pairs, against NumPy's."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from physnet_ase.sums import owner_sum


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=12), st.integers(1, 3))
def test_rows_go_to_their_owners_and_owners_without_rows_get_nothing(
    owners: list[int], width: int
) -> None:
    owner = np.sort(np.array(owners, np.int32))
    values = np.arange(len(owner) * width, dtype=np.float32).reshape(-1, width)
    expected = np.zeros((6, width), np.float32)
    np.add.at(expected, owner, values)
    np.testing.assert_array_equal(owner_sum(values, owner, 6), expected)
