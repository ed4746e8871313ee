"""The padded batch that the network sees, and its one builder.

Nothing here needs JAX: a named tuple of NumPy arrays is already a pytree, so readers
can build graphs in worker processes and the network receives the same type.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import ALL_PAIRS_LIMIT, Pairs
from physnet_ase.quantities import QUANTITIES

Array = Any
"""A NumPy or JAX array; shapes stand in the field comments."""


class Labels(NamedTuple):
    """Reference values by the names of ``quantities``; NaN is missing and masked."""

    values: dict[str, Array]  # [molecules, …] or [atoms, …]; energy float64 on the host
    weight: Array  # [molecules] relative weight of the molecule in the loss
    # [molecules] int32, the same for those of one geometry; None: not asked for
    ladder: Array | None = None


class Graph(NamedTuple):
    """A padded batch of molecules.

    Padded atoms have ``atomic_numbers`` 0, ``atom_mask`` False and belong to the last
    molecule slot; padded pairs have ``pair_mask`` False and point at the last atom
    slot. Receivers are sorted. A pair's vector is ``R[senders] + shifts -
    R[receivers]``.

    The ``long_*`` pairs are every i < j of molecules without periodic directions: the
    Coulomb sum of open systems. Periodic molecules have none there.
    """

    atomic_numbers: Array  # [atoms] int32
    positions: Array  # [atoms, 3] Å
    molecule_index: Array  # [atoms] int32, ascending
    atom_mask: Array  # [atoms] bool
    senders: Array  # [pairs] int32
    receivers: Array  # [pairs] int32, ascending
    shifts: Array  # [pairs, 3] Å, Cartesian translation of the sender's image
    pair_mask: Array  # [pairs] bool
    long_senders: Array  # [long_pairs] int32
    long_receivers: Array  # [long_pairs] int32
    long_pair_mask: Array  # [long_pairs] bool
    total_charge: Array  # [molecules] int32, e
    spin_multiplicity: Array  # [molecules] int32, 2S+1
    molecule_mask: Array  # [molecules] bool
    periodic: Array  # [molecules] bool, any periodic direction
    cell: Array  # [molecules, 3, 3] Å, rows are lattice vectors, zeros without one
    mesh: Array  # [x, y, z] int8: its shape is that of the mesh for Ewald's sum
    labels: Labels | None = None
    level: Array | None = None  # [molecules] int32 level of theory; None: the first


class Capacity(NamedTuple):
    """Static sizes of a graph: one compiled program each."""

    molecules: int
    atoms: int
    pairs: int
    long_pairs: int
    mesh_x: int = 0  # points of the mesh of each molecule
    mesh_y: int = 0
    mesh_z: int = 0

    def holds(self, need: "Capacity") -> bool:
        """Whether a batch fits; padded pairs need a padded atom to point at."""
        fits = all(have >= want for have, want in zip(self, need, strict=True))
        padded_pairs = self[2:4] != need[2:4]
        return fits and (self.atoms > need.atoms or not padded_pairs)


def size_class(count: int, *, smallest: int = 4, ratio: float = 1.6) -> int:
    """Smallest size of a geometric ladder that holds ``count``, rounded to even."""
    size = float(smallest)
    while int(size) < count:
        size *= ratio
    return (int(size) + 1) // 2 * 2


def needed_capacity(molecules: Molecules, pairs: Pairs) -> Capacity:
    """Exactly what a batch takes."""
    atoms = len(molecules.values["atomic_numbers"])
    return Capacity(
        len(molecules), atoms, len(pairs.senders), len(pairs.long_senders), *pairs.mesh
    )


def fit_capacity(molecules: Molecules, pairs: Pairs) -> Capacity:
    """Size class that holds these molecules; few classes cover many systems.

    One small open molecule has all its pairs, so its sizes follow from its atoms' class
    alone. Everything else rounds each count up a coarser ladder.
    """
    need = needed_capacity(molecules, pairs)
    if need.molecules == 1 and not molecules.periodic[0]:
        atoms = size_class(need.atoms)
        if need.atoms <= ALL_PAIRS_LIMIT:
            return Capacity(1, atoms, atoms * (atoms - 1), atoms * (atoms - 1) // 2)
        return Capacity(1, atoms + 2, size_class(need.pairs), atoms * (atoms - 1) // 2)
    long = need.long_pairs
    return Capacity(
        molecules=1 if need.molecules == 1 else size_class(need.molecules, ratio=4),
        atoms=size_class(need.atoms + 1, ratio=2),
        pairs=size_class(need.pairs, smallest=16, ratio=2),
        long_pairs=size_class(long, smallest=16, ratio=4) if long else 0,
        mesh_x=need.mesh_x,  # one of few sizes
        mesh_y=need.mesh_y,
        mesh_z=need.mesh_z,
    )


def build_graph(
    molecules: Molecules,
    pairs: Pairs,
    capacity: Capacity | None = None,
    *,
    labels: Sequence[str] = (),
    weight: Array | None = None,
    ladder: Array | None = None,
) -> Graph:
    """Bring molecules and their pairs to a static shape (NumPy, dtypes kept).

    Args:
        molecules: Structures and states.
        pairs: Theirs.
        capacity: Sizes of the arrays, which must hold the batch; None: its size class.
        labels: Names of labels to carry; what a molecule lacks is NaN.
        weight: [molecules] weights in the loss; with it the graph has labels.
        ladder: [molecules] number of each one's geometry.
    """
    size = capacity or fit_capacity(molecules, pairs)
    values, last = molecules.values, size.atoms - 1
    count, num_atoms = len(molecules), len(values["atomic_numbers"])
    positions = values["positions"]
    shifts = np.zeros((size.pairs, 3), positions.dtype)
    if pairs.shifts is not None:
        shifts[: len(pairs.shifts)] = pairs.shifts
    cell = np.zeros((size.molecules, 3, 3), positions.dtype)
    if "cell" in values:
        cell[:count] = np.nan_to_num(values["cell"])
    if pairs.cells is not None:
        cell[:count][molecules.periodic] = pairs.cells[molecules.periodic]
    return Graph(
        atomic_numbers=_padded(values["atomic_numbers"], size.atoms, 0),
        positions=_padded(positions, size.atoms, 0.0),
        molecule_index=_padded(molecules.owner, size.atoms, size.molecules - 1),
        atom_mask=_mask(num_atoms, size.atoms),
        senders=_padded(pairs.senders, size.pairs, last),
        receivers=_padded(pairs.receivers, size.pairs, last),
        shifts=shifts,
        pair_mask=_mask(len(pairs.senders), size.pairs),
        long_senders=_padded(pairs.long_senders, size.long_pairs, last),
        long_receivers=_padded(pairs.long_receivers, size.long_pairs, last),
        long_pair_mask=_mask(len(pairs.long_senders), size.long_pairs),
        total_charge=_padded(values["total_charge"], size.molecules, 0),
        spin_multiplicity=_padded(values["spin_multiplicity"], size.molecules, 1),
        molecule_mask=_mask(count, size.molecules),
        periodic=_padded(molecules.periodic, size.molecules, False),
        cell=cell,
        mesh=np.zeros(size[4:7], np.int8),
        labels=None
        if weight is None
        else _labels(molecules, size, labels, weight, ladder),
        level=_padded(values["level"].astype(np.int32), size.molecules, 0)
        if "level" in values
        else None,
    )


def centred(molecules: Molecules) -> Molecules:
    """Each molecule about its own centre, in float64.

    Casting to float32 later then keeps the digits that distances need.
    """
    positions = molecules.values["positions"].astype(np.float64)
    first, sizes = molecules.first_atom, molecules.n_atoms
    centres = np.add.reduceat(positions, first) / sizes[:, None]
    return molecules.with_values(
        positions=positions - np.repeat(centres, sizes, axis=0)
    )


def _labels(
    molecules: Molecules,
    size: Capacity,
    names: Sequence[str],
    weight: Array,
    ladder: Array | None,
) -> Labels:
    padded = {}
    for name in names:
        shape = QUANTITIES[name].row_shape(size.molecules, size.atoms)
        dtype = np.float64 if name == "energy" else np.float32
        padded[name] = np.full(shape, np.nan, dtype)
        if name in molecules.values:
            padded[name][: len(molecules.values[name])] = molecules.values[name]
    return Labels(
        padded,
        _padded(weight, size.molecules, 0.0),
        None if ladder is None else _padded(ladder, size.molecules, -1),
    )


def _padded(array: Array, length: int, fill: float) -> Array:
    if len(array) == length:
        return array
    result = np.full((length, *array.shape[1:]), fill, dtype=array.dtype)
    result[: len(array)] = array
    return result


def _mask(count: int, length: int) -> Array:
    mask = np.zeros(length, dtype=bool)
    mask[:count] = True
    return mask
