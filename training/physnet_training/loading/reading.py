"""Molecules of several batches, gathered from disk in one go.

One gather for many batches costs little per batch, reads each file from its beginning
to its end (what spinning disks and network storage like), and visits each of many
shards once. Batches are then cut from memory that is still in the cache.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from physnet_ase.quantities import QUANTITIES
from physnet_training.packed import PackedDataset

Array = NDArray[Any]
_READ_ATOMS = 1 << 16  # two megabytes
_MOST_ATOMS = 1 << 18
_ATOMS_PER_SHARD = 1 << 12


class Gathered(NamedTuple):
    """Flat molecules in the order of the files; every last row is filler.

    Padding is then a row number like any other, and one ``take`` cuts and pads.
    """

    molecules: Array  # [molecules + 1] index in the dataset, filler -1
    sizes: Array  # [molecules + 1] int32 atoms, filler 0
    first: Array  # [molecules + 1] first atom, of the filler the filler atom
    values: dict[str, Array]  # one row per molecule or atom, and the filler's


def atoms_at_once(dataset: PackedDataset) -> int:
    """How many atoms to read in one go: more where there are many shards to visit."""
    wanted = len(dataset.manifests) * _ATOMS_PER_SHARD
    return min(max(_READ_ATOMS, wanted), _MOST_ATOMS)


def gather(
    dataset: PackedDataset,
    batches: list[Array],
    fills: Mapping[str, float],
    *,
    whole_states: bool,
    weights: Array | None = None,
) -> tuple[Gathered, list[Array]]:
    """Read the molecules of some batches.

    Args:
        dataset: Where they are.
        batches: Dataset indices of each batch's molecules.
        fills: Field to read -> its value in the filler row; charge, multiplicity and
            weight come in any case.
        whole_states: Charge and multiplicity as integers that must be known, instead
            of float32 with NaN for a missing multiplicity.
        weights: [molecules of the dataset] weights in the loss; None: 1 for each.

    Returns:
        The molecules, and for each batch the rows of its molecules among them.
    """
    wanted = np.concatenate(batches)
    order = np.argsort(wanted, kind="stable")
    ascending = wanted[order].astype(np.int64, copy=False)
    place = np.empty(len(wanted), dtype=np.int64)
    place[order] = np.arange(len(wanted))
    # Any row will do where the filler goes; the last one keeps the rows ascending.
    atoms = _with_filler(dataset.atom_rows(ascending), np.int64, dataset.num_atoms - 1)
    rows = _with_filler(ascending, np.int64, len(dataset) - 1)
    values: dict[str, Array] = {}
    for place_of, per_atom in ((atoms, True), (rows, False)):
        names = [name for name in fills if QUANTITIES[name].per_atom is per_atom]
        values |= dataset.take_all(names, place_of)
    for name, fill in fills.items():
        values[name][-1] = fill
    if whole_states:
        charge, spin = dataset.states_of(ascending)
    else:
        charge = dataset.take("total_charge", ascending)
        spin = dataset.multiplicities(ascending)
    weight = np.ones(len(wanted)) if weights is None else weights[ascending]
    values["total_charge"] = _with_filler(charge, charge.dtype, 0)
    values["spin_multiplicity"] = _with_filler(spin, spin.dtype, 1)
    values["weight"] = _with_filler(weight, np.float32, 0)
    sizes = _with_filler(dataset.n_atoms[ascending], np.int32, 0)
    first = np.cumsum(sizes, dtype=np.int64) - sizes
    found = Gathered(_with_filler(ascending, np.int64, -1), sizes, first, values)
    return found, np.split(place, np.cumsum([len(b) for b in batches])[:-1])


def _with_filler(values: Array, dtype: Any, fill: int) -> Array:
    result = np.empty(len(values) + 1, dtype=dtype)
    result[:-1], result[-1] = values, fill
    return result


def padded_rows(rows: Array, length: int, filler: int) -> Array:
    """Row numbers, continued with the filler's up to ``length``."""
    if len(rows) == length:
        return rows
    result = np.full(length, filler, dtype=np.int64)
    result[: len(rows)] = rows
    return result
