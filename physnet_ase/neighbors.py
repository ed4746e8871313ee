"""Pairs of atoms, and their assembly into padded graphs of few static shapes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import vesin

from physnet_ase.graph import Graph
from physnet_ase.state import ElectronicState

ALL_PAIRS_LIMIT = 40
"""Open systems up to this size use every pair: no list to build, none to outdate."""
DEFAULT_SKIN = 0.5
"""Å beyond the cutoff that a reusable list covers."""
CLOSEST_DISTANCE = 0.1
"""Å; atoms nearer than this are a mistake in the structure, not a geometry."""


class Structure(NamedTuple):
    """Atoms as plain arrays."""

    numbers: np.ndarray  # [atoms] atomic numbers
    positions: np.ndarray  # [atoms, 3] Å, float64
    cell: np.ndarray  # [3, 3] Å
    pbc: np.ndarray  # [3] bool

    @classmethod
    def from_atoms(cls, atoms: Any) -> "Structure":
        """Copy what the network needs out of an ``ase.Atoms``.

        Raises:
            ValueError: No atoms, a position that is not finite, or periodic
                directions without as many independent cell vectors.
        """
        structure = cls(
            np.array(atoms.numbers, np.int32),
            np.array(atoms.positions, np.float64),
            np.array(atoms.cell.array, np.float64),
            np.array(atoms.pbc, bool),
        )
        if len(structure.numbers) == 0:
            raise ValueError("the structure has no atoms; give at least one")
        bad = np.flatnonzero(~np.isfinite(structure.positions).all(axis=1))
        if len(bad):
            raise ValueError(
                f"position of atom {bad[0]} is {structure.positions[bad[0]]}; "
                "positions must be finite numbers in Å"
            )
        periodic = structure.cell[structure.pbc]
        if len(periodic) and not (
            np.isfinite(periodic).all()
            and np.linalg.matrix_rank(periodic) == len(periodic)
        ):
            raise ValueError(
                f"pbc={structure.pbc.tolist()} needs that many independent cell "
                f"vectors, got cell {structure.cell.tolist()}; set atoms.cell or "
                "atoms.pbc = False"
            )
        return structure


class Pairs(NamedTuple):
    """Directed pairs sorted by receiver; ``cells`` counts lattice vectors."""

    senders: np.ndarray  # [pairs] int32
    receivers: np.ndarray  # [pairs] int32
    cells: np.ndarray  # [pairs, 3] float64, image of the sender


def check_distances(structure: Structure, pairs: Pairs) -> None:
    """Refuse coincident atoms, periodic images included.

    Raises:
        ValueError: Two atoms are nearer than ``CLOSEST_DISTANCE``; they are named.
    """
    senders, receivers = pairs.senders, pairs.receivers
    vectors = structure.positions[senders] - structure.positions[receivers]
    if structure.pbc.any():
        vectors = vectors + pairs.cells @ structure.cell
    squared = np.einsum("ij,ij->i", vectors, vectors)
    if len(squared) and np.min(squared) < CLOSEST_DISTANCE**2:
        pair = int(np.argmin(squared))
        raise ValueError(
            f"atoms {receivers[pair]} and {senders[pair]} are only "
            f"{np.sqrt(squared[pair]):.3g} Å apart (periodic images included); atoms "
            f"nearer than {CLOSEST_DISTANCE} Å are refused, check the positions"
        )


def find_pairs(structure: Structure, cutoff: float) -> Pairs:
    """All directed pairs within ``cutoff`` Å, periodic images included."""
    count = len(structure.numbers)
    if not structure.pbc.any() and count <= ALL_PAIRS_LIMIT:
        index = np.arange(count * (count - 1), dtype=np.int32)
        receivers = index // max(count - 1, 1)
        senders = index % max(count - 1, 1)
        senders = senders + (senders >= receivers)
        return Pairs(senders, receivers, np.zeros((len(index), 3)))
    finder = vesin.NeighborList(cutoff=cutoff, full_list=True)
    receivers, senders, cells = finder.compute(
        points=structure.positions,
        box=structure.cell,
        periodic=structure.pbc,
        quantities="ijS",
    )
    order = np.argsort(receivers, kind="stable")
    return Pairs(
        senders[order].astype(np.int32),
        receivers[order].astype(np.int32),
        cells[order].astype(np.float64),
    )


class PairCache:
    """Reuses a pair list until an atom has moved more than half the skin."""

    def __init__(self, cutoff: float, skin: float = DEFAULT_SKIN) -> None:
        self.cutoff, self.skin = cutoff, skin
        self.num_builds = 0
        self._last: tuple[Structure, Pairs] | None = None

    def pairs(self, structure: Structure) -> Pairs:
        """Return pairs that hold at least those within the cutoff."""
        if self._last is not None and self._still_valid(self._last[0], structure):
            return self._last[1]
        pairs = find_pairs(structure, self.cutoff + self.skin)
        self._last = (structure, pairs)
        self.num_builds += 1
        return pairs

    def _still_valid(self, old: Structure, new: Structure) -> bool:
        same = (
            len(old.numbers) == len(new.numbers)
            and np.array_equal(old.pbc, new.pbc)
            and (not old.pbc.any() or np.array_equal(old.cell, new.cell))
        )
        if not same:
            return False
        if not new.pbc.any() and len(new.numbers) <= ALL_PAIRS_LIMIT:
            return True
        moved = np.max(np.sum((new.positions - old.positions) ** 2, axis=1))
        return bool(moved < (0.5 * self.skin) ** 2)


def size_class(count: int, *, smallest: int = 4, ratio: float = 1.6) -> int:
    """Smallest size of a geometric ladder that holds ``count``, rounded to even."""
    size = float(smallest)
    while int(size) < count:
        size *= ratio
    return (int(size) + 1) // 2 * 2


class Capacity(NamedTuple):
    """Static sizes of a graph."""

    molecules: int
    atoms: int
    pairs: int
    long_pairs: int


def fit_capacity(structures: Sequence[Structure], pairs: Sequence[Pairs]) -> Capacity:
    """Size class that holds these structures; few classes cover many systems.

    One small open molecule has all its pairs, so its sizes follow from its atoms' class
    alone. Everything else rounds each count up a coarser ladder.
    """
    num_atoms = sum(len(s.numbers) for s in structures)
    num_pairs = sum(len(p.senders) for p in pairs)
    num_long = sum(_num_long(s) for s in structures)
    if len(structures) == 1 and not structures[0].pbc.any():
        atoms = size_class(num_atoms)
        if num_atoms <= ALL_PAIRS_LIMIT:
            return Capacity(1, atoms, atoms * (atoms - 1), atoms * (atoms - 1) // 2)
        return Capacity(1, atoms + 2, size_class(num_pairs), atoms * (atoms - 1) // 2)
    return Capacity(
        molecules=1 if len(structures) == 1 else size_class(len(structures), ratio=4),
        atoms=size_class(num_atoms + 1, ratio=2),
        pairs=size_class(num_pairs, smallest=16, ratio=2),
        long_pairs=size_class(num_long, smallest=16, ratio=4) if num_long else 0,
    )


def _num_long(structure: Structure) -> int:
    count = len(structure.numbers)
    return 0 if structure.pbc.any() else count * (count - 1) // 2


def build_graph(
    structures: Sequence[Structure],
    states: Sequence[ElectronicState],
    pairs: Sequence[Pairs],
    *,
    capacity: Capacity | None = None,
) -> Graph:
    """Join structures, each in its state, into one padded graph (NumPy, float64).

    Positions are centred per structure in float64, so that casting to float32 later
    keeps the digits that distances need.
    """
    capacity = capacity or fit_capacity(structures, pairs)
    graph = _empty_graph(capacity)
    atom = pair = long_pair = 0
    for row, (structure, state, found) in enumerate(
        zip(structures, states, pairs, strict=True)
    ):
        count = len(structure.numbers)
        atoms = slice(atom, atom + count)
        graph.atomic_numbers[atoms] = structure.numbers
        graph.positions[atoms] = structure.positions - structure.positions.mean(axis=0)
        graph.molecule_index[atoms] = row
        graph.atom_mask[atoms] = True
        rows = slice(pair, pair + len(found.senders))
        graph.senders[rows] = found.senders + atom
        graph.receivers[rows] = found.receivers + atom
        graph.pair_mask[rows] = True
        graph.total_charge[row] = state.charge
        graph.spin_multiplicity[row] = state.multiplicity
        graph.molecule_mask[row] = True
        if structure.pbc.any():
            graph.periodic[row] = True
            graph.shifts[rows] = found.cells @ structure.cell
        elif count > 1:
            i, j = np.triu_indices(count, 1)
            long_rows = slice(long_pair, long_pair + len(i))
            graph.long_receivers[long_rows] = i + atom
            graph.long_senders[long_rows] = j + atom
            graph.long_pair_mask[long_rows] = True
            long_pair += len(i)
        atom, pair = atom + count, pair + len(found.senders)
    return graph


def _empty_graph(capacity: Capacity) -> Graph:
    last = capacity.atoms - 1

    def index(size: int, value: int) -> np.ndarray:
        return np.full(size, value, np.int32)

    return Graph(
        atomic_numbers=index(capacity.atoms, 0),
        positions=np.zeros((capacity.atoms, 3)),
        molecule_index=index(capacity.atoms, capacity.molecules - 1),
        atom_mask=np.zeros(capacity.atoms, bool),
        senders=index(capacity.pairs, last),
        receivers=index(capacity.pairs, last),
        shifts=np.zeros((capacity.pairs, 3)),
        pair_mask=np.zeros(capacity.pairs, bool),
        long_senders=index(capacity.long_pairs, last),
        long_receivers=index(capacity.long_pairs, last),
        long_pair_mask=np.zeros(capacity.long_pairs, bool),
        total_charge=index(capacity.molecules, 0),
        spin_multiplicity=index(capacity.molecules, 1),
        molecule_mask=np.zeros(capacity.molecules, bool),
        periodic=np.zeros(capacity.molecules, bool),
    )
