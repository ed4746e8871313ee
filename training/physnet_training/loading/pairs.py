"""Two molecules far apart as one system: training data that cost nothing.

Energy, forces, charges and spin populations of A and B infinitely far apart are those
of A and of B. Where a geometry is labelled in several states, so is every distribution
of a total charge and spin over the two, and the lowest is the label of the pair.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.quantities import QUANTITIES
from physnet_training.loading.batches import read_batches
from physnet_training.packed import PackedDataset

Array = NDArray[Any]
_State = tuple[int, int]

NEAREST, FARTHEST = 30.0, 60.0
"""Å between the centres of the two molecules."""
_MOST_LADDERS = 50_000
_ATTEMPTS = 100
_CHARGED = 0.75
"""Share of the pairs in which at least one molecule is no neutral singlet."""


class SeparatedPairs:
    """Draws pairs of molecules of a dataset that are labelled in several states.

    Args:
        dataset: Where they are.
        molecules: Rows that may be used, of one level of theory.
        seed: Of the draws.
        states: Total states that a pair may have; those the model knows.

    Raises:
        ValueError: Fewer than two geometries are labelled in two states.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        molecules: Array,
        seed: int,
        states: Sequence[_State],
    ) -> None:
        self._dataset, self._seed, self._states = dataset, seed, set(states)
        self._ladders = list(_ladders(dataset, molecules[:_MOST_LADDERS]).values())
        if len(self._ladders) < 2:
            raise ValueError(
                f"{dataset.path}: sampling.separated_pairs needs molecules whose "
                "geometry is labelled in several states; set it to 0, or label "
                "vertical ladders"
            )
        self._names_of = [
            _name(dataset, next(iter(ladder.values()))[1]) for ladder in self._ladders
        ]
        names = [q.name for q in QUANTITIES.values() if q.role == "label"]
        levels = ("level",) if len(dataset.levels) > 1 else ()
        self._names = ("atomic_numbers", "positions", *names, *levels)

    def batch(self, number: int, count: int) -> Molecules:
        """Systems of two molecules each, as a function of the batch's number alone."""
        rng = np.random.default_rng([self._seed, 0x5EBA, number])
        rows: list[int] = []
        while len(rows) < 2 * count:
            rows += self._pair(rng)
        known = [name for name in self._names if name in self._dataset.fields]
        places = np.array(rows)
        singles, [order] = read_batches(
            self._dataset, [places], tuple(known), whole_states=True
        )
        return _joined(singles.take(order), rng)

    def _pair(self, rng: np.random.Generator) -> tuple[int, int]:
        """Rows of two molecules in the lowest distribution of their total state."""
        for _ in range(_ATTEMPTS):
            places = rng.integers(len(self._ladders), size=2)
            if is_reserved(*(self._names_of[i] for i in places)):
                continue
            one, two = (self._ladders[i] for i in places)
            first, second = (
                list(ladder)[rng.integers(len(ladder))] for ladder in (one, two)
            )
            if rng.random() < _CHARGED and first == second == (0, 1):
                continue
            total = _sum(first, second)
            if total not in self._states:
                continue
            ways = [
                (one[a][0] + two[b][0], one[a][1], two[b][1])
                for a in one
                for b in two
                if _sum(a, b) == total
            ]
            _, row, other = min(ways)
            return row, other
        raise ValueError(
            f"{self._dataset.path}: no two of its molecules make a state that the "
            "model knows; set sampling.separated_pairs = 0"
        )


def is_reserved(one: str, two: str) -> bool:
    """Whether molecules of these names are never paired, so that a test can pair them.

    One of ten pairs of different names, by a hash of both.
    """
    if one == two or not one or not two:
        return False
    digest = hashlib.sha256("|".join(sorted((one, two))).encode()).digest()
    return digest[0] < 26


def _name(dataset: PackedDataset, row: int) -> str:
    group = int(dataset.take("group", np.array([row]))[0]) if dataset.groups else -1
    return dataset.groups[group] if group >= 0 else ""


def _sum(one: _State, two: _State) -> _State:
    """Charges add up, and so do unpaired electrons with parallel spins."""
    return one[0] + two[0], one[1] + two[1] - 1


def _ladders(
    dataset: PackedDataset, molecules: Array
) -> dict[bytes, dict[_State, tuple[float, int]]]:
    """Geometry -> state -> energy (eV) and row, of geometries in several states."""
    found: dict[bytes, dict[_State, tuple[float, int]]] = defaultdict(dict)
    some, [order] = read_batches(
        dataset,
        [molecules],
        ("atomic_numbers", "positions", "energy"),
        whole_states=True,
    )
    some = some.take(order)
    values, first = some.values, some.first_atom
    states = zip(values["total_charge"], values["spin_multiplicity"], strict=True)
    for index, (charge, spin) in enumerate(states):
        energy = float(values["energy"][index])
        if not np.isfinite(energy):
            continue
        atoms = slice(first[index], first[index] + some.n_atoms[index])
        numbers, positions = values["atomic_numbers"], values["positions"]
        key = numbers[atoms].tobytes() + positions[atoms].tobytes()
        found[key][int(charge), int(spin)] = energy, int(some.rows[index])
    return {key: ladder for key, ladder in found.items() if len(ladder) > 1}


def _joined(singles: Molecules, rng: np.random.Generator) -> Molecules:
    """Molecules 0 and 1, 2 and 3, … as one system each, in random directions."""
    count = len(singles) // 2
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    apart = directions * rng.uniform(NEAREST, FARTHEST, size=(count, 1))
    shift = np.zeros((2 * count, 3))
    shift[1::2] = apart
    values = dict(singles.values)
    centres = np.add.reduceat(values["positions"], singles.first_atom, axis=0)
    centres = centres / singles.n_atoms[:, None]
    moved = shift - centres
    values["positions"] = (
        values["positions"] + np.repeat(moved, singles.n_atoms, axis=0)
    ).astype(np.float32)
    charges = values["total_charge"]
    if "dipole" in values:  # that of an ion moves with it
        values["dipole"] = values["dipole"] + charges[:, None] * moved
    joined: dict[str, Array] = {}
    for name, array in values.items():
        if QUANTITIES[name].per_atom:
            joined[name] = array
        elif name == "level":
            joined[name] = array[0::2]
        elif name == "spin_multiplicity":
            joined[name] = array[0::2] + array[1::2] - 1
        elif name not in ("stress", "weight"):
            joined[name] = array[0::2] + array[1::2]
    return Molecules(
        singles.n_atoms[0::2] + singles.n_atoms[1::2], joined, singles.rows[0::2]
    )
