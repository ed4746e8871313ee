"""Pairs of atoms inside molecules, periodic images included."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import vesin
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.reciprocal import ewald_cell, mesh_shape

Array = NDArray[Any]

NO_MESH = (0, 0, 0)
ALL_PAIRS_LIMIT = 40
"""Open molecules up to this size use every pair: no list to build, none to outdate."""
DEFAULT_SKIN = 0.5
"""Å beyond the cutoff that a reusable list covers."""
CLOSEST_DISTANCE = 0.1
"""Å; atoms nearer than this are a mistake in the structure, not a geometry."""
CLOSEST_IMAGE = 1.5
"""Å; an atom nearer to its own image than this is in a cell that cannot be meant."""
_CELL_LIST_SIZE = 256
"""Atoms from which an open molecule's pairs are looked up instead of filtered."""
_CACHED_SIZE = 64
"""Patterns up to this size are kept: 3 MB for all of them."""


class Pairs(NamedTuple):
    """Real pairs of a batch of molecules whose atoms are numbered through.

    A pair's vector is ``R[senders] + shifts - R[receivers]``. The ``long_*`` pairs are
    every i < j of molecules without periodic directions, for their Coulomb sum.
    """

    senders: Array  # [pairs] int32
    receivers: Array  # [pairs] int32, ascending
    shifts: Array | None  # [pairs, 3] Å, None: no pair crosses a boundary
    long_senders: Array  # [long_pairs] int32
    long_receivers: Array  # [long_pairs] int32
    # Of periodic molecules, for Ewald's sum.
    mesh: tuple[int, int, int] = NO_MESH  # points along each lattice vector
    cells: Array | None = None  # [molecules, 3, 3] Å, with vacuum where not periodic

    def vectors(self, positions: Array) -> Array:
        """[pairs, 3] Å from receiver to sender."""
        found: Array = positions[self.senders] - positions[self.receivers]
        return found if self.shifts is None else found + self.shifts


def ordered_pattern(size: int) -> Array:
    """Senders and receivers of every ordered pair, receivers ascending. [2, n(n-1)]."""
    receivers, senders = np.divmod(np.arange(size * (size - 1)), max(size - 1, 1))
    senders += senders >= receivers
    return np.stack([senders, receivers]).astype(np.int32)


def once_pattern(size: int) -> Array:
    """Senders j and receivers i of the pairs i < j, i ascending. [2, n(n-1)/2]."""
    receivers, senders = np.triu_indices(size, 1)
    return np.stack([senders, receivers]).astype(np.int32)


_kept_ordered = lru_cache(maxsize=_CACHED_SIZE)(ordered_pattern)
_kept_once = lru_cache(maxsize=_CACHED_SIZE)(once_pattern)


def every_ordered_pair(size: int) -> Array:
    """:func:`ordered_pattern`, kept for small molecules."""
    return (_kept_ordered if size <= _CACHED_SIZE else ordered_pattern)(size)


def _every_pair_once(size: int) -> Array:
    return (_kept_once if size <= _CACHED_SIZE else once_pattern)(size)


def runs_of_equal_size(sizes: Array) -> list[tuple[int, int, int]]:
    """First, end and size of each run of equal sizes.

    Molecules of one size that follow each other are done together: in a batch sorted
    by size there are few such runs.
    """
    ends = np.flatnonzero(sizes[1:] != sizes[:-1]) + 1
    starts = [0, *ends.tolist()] if len(sizes) else []
    return [
        (start, end, int(sizes[start]))
        for start, end in zip(starts, [*starts[1:], len(sizes)], strict=False)
    ]


def pairs_from(
    sizes: Array,
    first: Array,
    pattern: Callable[[int], Array] = every_ordered_pair,
) -> tuple[Array, Array]:
    """Senders and receivers of a pattern of pairs inside each molecule, int32.

    Args:
        sizes: [molecules] number of atoms.
        first: [molecules] int32 number of each molecule's first atom.
        pattern: From the number of atoms to [2, pairs]; all ordered pairs by default,
            whose receivers ascend if ``first`` does.
    """
    runs = runs_of_equal_size(sizes)
    patterns = [pattern(size) for _, _, size in runs]
    counts = [
        (end - start) * pairs.shape[1]
        for (start, end, _), pairs in zip(runs, patterns, strict=True)
    ]
    joined = np.empty((2, sum(counts)), np.int32)
    done = 0
    for (start, end, _), pairs, count in zip(runs, patterns, counts, strict=True):
        # Splitting the last axis of a slice gives a view.
        part = joined[:, done : done + count].reshape(2, end - start, -1)
        np.add(first[start:end, None], pairs[:, None, :], out=part)
        done += count
    return joined[0], joined[1]


def find_pairs(
    molecules: Molecules,
    cutoff: float | None,
    *,
    skin: float = 0.0,
    finest: float | None = None,
) -> Pairs:
    """All directed pairs within ``cutoff`` Å, periodic images included.

    Args:
        molecules: Their positions and, where there are periodic ones, cells.
        cutoff: None keeps all pairs of open molecules.
        skin: Å beyond the cutoff that the list covers, to be used again.
        finest: The shortest cutoff of several models that share the pairs: it needs the
            finest mesh. None: ``cutoff``.

    Raises:
        ValueError: Periodic molecules without a cutoff.
    """
    periodic, sizes = molecules.periodic, molecules.n_atoms
    looked_up = periodic.copy()
    if cutoff is not None:
        looked_up |= sizes > _CELL_LIST_SIZE
    if not looked_up.any():
        reach = None if cutoff is None else cutoff + skin
        return _open_pairs(sizes, molecules.values["positions"], reach)
    if cutoff is None:
        raise ValueError(
            f"molecule {molecules.rows[np.argmax(periodic)]} is periodic: its pairs "
            "need a cutoff"
        )
    positions, first = molecules.values["positions"], molecules.first_atom
    reach = cutoff + skin
    parts = []
    for index, size in enumerate(sizes.tolist()):
        own = positions[first[index] : first[index] + size]
        if not looked_up[index]:
            parts.append(_open_pairs(sizes[index : index + 1], own, reach))
        elif periodic[index]:
            pbc = molecules.values["pbc"][index].astype(bool)
            cell = ewald_cell(molecules.values["cell"][index], pbc, own)
            found = _looked_up_pairs(own, reach, cell, pbc)
            mesh = mesh_shape(cell, finest or cutoff)
            parts.append(found._replace(mesh=mesh, cells=cell[None]))
        else:
            box, nowhere = np.zeros((3, 3)), np.zeros(3, bool)
            parts.append(_looked_up_pairs(own, reach, box, nowhere))
    return join_pairs(parts, sizes)


def join_pairs(parts: Sequence[Pairs], n_atoms: Array) -> Pairs:
    """Pairs of several molecules, each numbered from 0, as those of one batch."""
    if len(parts) == 1:
        return parts[0]
    first = (np.cumsum(n_atoms) - n_atoms).astype(np.int32)

    def joined(name: str) -> Array:
        return np.concatenate(
            [
                getattr(part, name) + start
                for part, start in zip(parts, first, strict=True)
            ]
        )

    shifts = None
    if any(part.shifts is not None for part in parts):
        shifts = np.concatenate(
            [
                np.zeros((len(part.senders), 3)) if part.shifts is None else part.shifts
                for part in parts
            ]
        )
    return Pairs(
        joined("senders"),
        joined("receivers"),
        shifts,
        joined("long_senders"),
        joined("long_receivers"),
        finest_mesh([part.mesh for part in parts]),
        _joined_cells(parts),
    )


def finest_mesh(meshes: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    """A mesh that is fine enough for all of them."""
    x, y, z = (max(points) for points in zip(*meshes, strict=True))
    return x, y, z


def _joined_cells(parts: Sequence[Pairs]) -> Array | None:
    """Cells of all parts, zeros where a molecule is open."""
    if all(part.cells is None for part in parts):
        return None
    none = np.zeros((1, 3, 3))
    return np.concatenate([none if p.cells is None else p.cells for p in parts])


def _open_pairs(sizes: Array, positions: Array, cutoff: float | None) -> Pairs:
    """Pairs of molecules without periodic directions, filtered by distance."""
    first = (np.cumsum(sizes) - sizes).astype(np.int32)
    senders, receivers = pairs_from(sizes, first)
    long_senders, long_receivers = pairs_from(sizes, first, _every_pair_once)
    if cutoff is not None and _widest(first, positions) >= cutoff:
        vectors = positions[senders] - positions[receivers]
        near = np.einsum("ij,ij->i", vectors, vectors) < cutoff**2
        senders, receivers = senders[near], receivers[near]
    return Pairs(senders, receivers, None, long_senders, long_receivers)


def _widest(first: Array, positions: Array) -> float:
    """Diagonal (Å) of the largest box around a molecule: no pair is further apart."""
    if len(first) == 0:
        return 0.0
    extent = np.maximum.reduceat(positions, first) - np.minimum.reduceat(
        positions, first
    )
    # a little more than exact, for distances are rounded too
    return 1.001 * float(np.sqrt(np.square(extent).sum(axis=1).max()))


def _looked_up_pairs(positions: Array, reach: float, box: Array, pbc: Array) -> Pairs:
    """Pairs of one large or periodic structure from a cell list."""
    finder = vesin.NeighborList(cutoff=reach, full_list=True)
    receivers, senders, images = finder.compute(
        points=np.asarray(positions, np.float64),
        box=box,
        periodic=pbc,
        quantities="ijS",
    )
    order = np.argsort(receivers, kind="stable")
    open_system = not np.any(pbc)
    long = _every_pair_once(len(positions) if open_system else 0)
    return Pairs(
        senders[order].astype(np.int32),
        receivers[order].astype(np.int32),
        None if open_system else images[order].astype(np.float64) @ box,
        long[0],
        long[1],
    )


def check_distances(molecules: Molecules, pairs: Pairs) -> None:
    """Refuse coincident atoms of one molecule, periodic images included.

    Raises:
        ValueError: Two atoms are nearer than ``CLOSEST_DISTANCE``, or one to its own
            image than ``CLOSEST_IMAGE``; they are named.
    """
    vectors = pairs.vectors(molecules.values["positions"])
    squared = np.einsum("ij,ij->i", vectors, vectors)
    if len(squared) and np.min(squared) < CLOSEST_DISTANCE**2:
        pair = int(np.argmin(squared))
        raise ValueError(
            f"atoms {pairs.receivers[pair]} and {pairs.senders[pair]} are only "
            f"{np.sqrt(squared[pair]):.3g} Å apart (periodic images included); atoms "
            f"nearer than {CLOSEST_DISTANCE} Å are refused, check the positions"
        )
    own = pairs.senders == pairs.receivers
    if own.any() and np.min(squared[own]) < CLOSEST_IMAGE**2:
        pair = int(np.flatnonzero(own)[np.argmin(squared[own])])
        raise ValueError(
            f"atom {pairs.receivers[pair]} and its own periodic image are only "
            f"{np.sqrt(squared[pair]):.3g} Å apart; a cell needs lattice vectors of at "
            f"least {CLOSEST_IMAGE} Å, check its unit, or set atoms.pbc = False for a "
            "molecule"
        )


class PairCache:
    """Reuses the pair list of one molecule until an atom has moved half the skin."""

    def __init__(
        self, cutoff: float, skin: float = DEFAULT_SKIN, finest: float | None = None
    ) -> None:
        self.cutoff, self.skin, self.finest = cutoff, skin, finest
        self.num_builds = 0
        self._last: tuple[Molecules, Pairs] | None = None

    def pairs(self, molecule: Molecules) -> Pairs:
        """Return pairs that hold at least those within the cutoff."""
        if self._last is not None and self._still_valid(self._last[0], molecule):
            return self._last[1]
        pairs = evaluation_pairs(
            molecule, self.cutoff, skin=self.skin, finest=self.finest
        )
        self._last = (molecule, pairs)
        self.num_builds += 1
        return pairs

    def _still_valid(self, old: Molecules, new: Molecules) -> bool:
        a, b = old.values, new.values
        periodic = bool(new.periodic[0])
        same = (
            old.n_atoms[0] == new.n_atoms[0]
            and np.array_equal(a["pbc"], b["pbc"])
            and (not periodic or np.array_equal(a["cell"], b["cell"]))
        )
        if not same:
            return False
        if not periodic and new.n_atoms[0] <= ALL_PAIRS_LIMIT:
            return True
        moved = np.max(np.sum((b["positions"] - a["positions"]) ** 2, axis=1))
        return bool(moved < (0.5 * self.skin) ** 2)


def without_vacuum(molecules: Molecules, cutoff: float) -> Molecules:
    """Molecules alone in a periodic box as the open molecules that they are.

    Where a slab without atoms, at least a cutoff thick, separates the images along
    every periodic direction, nothing short-ranged sees an image: the atoms are put
    together between the slabs and the directions count as open. The cell stays for the
    stress.
    """
    periodic = molecules.periodic
    if not periodic.any():
        return molecules
    values = molecules.values
    positions = values["positions"].astype(np.float64)
    pbc, first = values["pbc"].copy(), molecules.first_atom
    for index in np.flatnonzero(periodic):
        atoms = slice(first[index], first[index] + molecules.n_atoms[index])
        found = _unwrapped(positions[atoms], values["cell"][index], pbc[index], cutoff)
        if found is not None:
            positions[atoms], pbc[index] = found, 0
    return molecules.with_values(positions=positions, pbc=pbc)


def _unwrapped(
    positions: Array, cell: Array, pbc: Array, cutoff: float
) -> Array | None:
    """Positions cut open at the empty slabs; None where a direction has none."""
    from ase.geometry.cell import complete_cell

    box = complete_cell(np.where(np.isfinite(cell), cell, 0.0).astype(np.float64))
    inverse = np.linalg.inv(box)
    thickness = 1.0 / np.linalg.norm(inverse, axis=0)
    fractions = positions @ inverse
    for axis in np.flatnonzero(pbc):
        inside = fractions[:, axis] % 1.0
        order = np.sort(inside)
        gaps = np.diff(order, append=order[0] + 1.0)
        widest = int(np.argmax(gaps))
        if gaps[widest] * thickness[axis] < cutoff:
            return None
        start = order[(widest + 1) % len(order)]
        fractions[:, axis] = start + (inside - start) % 1.0
    return fractions @ box


def evaluation_pairs(
    molecule: Molecules,
    cutoff: float,
    *,
    skin: float = 0.0,
    finest: float | None = None,
) -> Pairs:
    """Pairs of one molecule for evaluations: every pair of a small open one.

    Its shapes then follow from its number of atoms alone, and no list grows old.
    """
    small = molecule.n_atoms[0] <= ALL_PAIRS_LIMIT and not molecule.periodic[0]
    reach = None if small else cutoff
    return find_pairs(molecule, reach, skin=skin, finest=finest)
