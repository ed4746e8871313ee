"""Molecules that stand in the sources more than once."""

import hashlib
from itertools import pairwise

import numpy as np

from physnet_training.molecules import Molecules

MAX_REMEMBERED = 2_000_000
"""Molecules remembered (16 bytes each and some); later ones are compared with these."""


class DuplicateCounter:
    """Counts molecules with the same atoms, positions, charge and multiplicity.

    Repeated molecules are no error, but a random split would put copies of training
    molecules into the validation part.
    """

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def count(self, molecules: Molecules) -> tuple[int, int | None]:
        """Number of repeated molecules, and the row of the first of them."""
        values = molecules.values
        numbers = values["atomic_numbers"].astype("<i4")
        positions = values["positions"].astype("<f4")  # as they will lie on disk
        state = np.stack([values["total_charge"], values["spin_multiplicity"]], axis=1)
        state = state.astype("<f4")
        ends = np.cumsum(molecules.n_atoms).tolist()
        repeated, first_row = 0, None
        for row, (first, end) in enumerate(pairwise([0, *ends])):
            content = (numbers[first:end], positions[first:end], state[row])
            joined = b"".join(part.tobytes() for part in content)
            key = hashlib.blake2b(joined, digest_size=16).digest()
            if key in self._seen:
                repeated += 1
                first_row = int(molecules.rows[row]) if first_row is None else first_row
            elif len(self._seen) < MAX_REMEMBERED:
                self._seen.add(key)
        return repeated, first_row
