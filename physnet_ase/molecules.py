"""The one ragged batch of molecules: flat arrays, in eV, Å and e.

Readers yield it, the packed dataset takes and returns it, labels are written as it, and
``Atoms`` become it. Nothing here needs JAX.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.quantities import QUANTITIES
from physnet_ase.state import ElectronicState, resolve_state

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[Any]


@dataclass(frozen=True)
class Molecules:
    """Some molecules, each with its atoms one after another.

    A label that is missing is NaN; what ``values`` lacks is missing for all.

    Attributes:
        n_atoms: [molecules] int32 atoms of each.
        values: Name in ``quantities.QUANTITIES`` -> array with one row per molecule or
            atom.
        rows: [molecules] 0-based number of each in the file, folder or list it is from.
        names: [molecules] name of each, by which whole molecules can be held out, or
            None; an empty one belongs to no group.
        levels: [molecules] level of theory of each, or None; empty where unknown.
        absent: Name -> [molecules] bool: the source has no such entry at all, which is
            not the same as one that is NaN.
        facts: What holds for all of them by definition of the source's format although
            the source does not say it.
    """

    n_atoms: Array
    values: dict[str, Array]
    rows: Array
    names: Array | None = None
    levels: Array | None = None
    absent: Mapping[str, Array] = field(default_factory=dict)
    facts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.n_atoms)

    @property
    def num_atoms(self) -> int:
        """Atoms of all molecules together."""
        return int(np.sum(self.n_atoms))

    @cached_property
    def first_atom(self) -> Array:
        """[molecules] row of the first atom of each."""
        ends: Array = np.cumsum(self.n_atoms, dtype=np.int64)
        return ends - self.n_atoms

    @cached_property
    def owner(self) -> Array:
        """[atoms] the molecule that each atom belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.n_atoms)

    @property
    def periodic(self) -> Array:
        """[molecules] bool: any periodic direction."""
        pbc = self.values.get("pbc")
        if pbc is None:
            return np.zeros(len(self), bool)
        periodic: Array = np.asarray(pbc).max(axis=1) > 0
        return periodic

    def atom_rows(self, molecules: Array) -> Array:
        """[atoms] rows of the atoms of these molecules, in their order."""
        sizes = self.n_atoms[molecules]
        start = self.first_atom[molecules] - (np.cumsum(sizes) - sizes)
        return np.repeat(start, sizes) + np.arange(int(sizes.sum()))

    def take(self, molecules: Array) -> "Molecules":
        """These molecules, by place; one may come several times."""
        atoms = self.atom_rows(molecules)
        return Molecules(
            self.n_atoms[molecules],
            {
                name: array.take(
                    atoms if QUANTITIES[name].per_atom else molecules, axis=0
                )
                for name, array in self.values.items()
            },
            self.rows[molecules],
            None if self.names is None else self.names[molecules],
            None if self.levels is None else self.levels[molecules],
            {name: where[molecules] for name, where in self.absent.items()},
            self.facts,
        )

    def keep(self, chosen: Array) -> "Molecules":
        """The molecules for which ``chosen`` [molecules] bool is true."""
        return self if chosen.all() else self.take(np.flatnonzero(chosen))

    def with_values(self, **values: Array) -> "Molecules":
        """The same molecules with some quantities replaced or added."""
        return replace(self, values={**self.values, **values})

    def states(self) -> list[ElectronicState]:
        """The state of each molecule.

        Raises:
            ValueError: A charge or multiplicity is not a whole number.
        """
        charges, spins = self.values["total_charge"], self.values["spin_multiplicity"]
        return [
            ElectronicState(q, m)
            for q, m in zip(charges.tolist(), spins.tolist(), strict=True)
        ]

    def present(self, name: str) -> Array:
        """[molecules] bool: every component of a quantity is there."""
        if name not in self.values:
            return np.zeros(len(self), bool)
        array = self.values[name]
        finite: Array = np.isfinite(array)
        if finite.all():
            return np.ones(len(self), bool)
        rows: Array = np.asarray(finite.reshape(len(array), -1).all(axis=1))
        if QUANTITIES[name].per_atom:
            rows = np.logical_and.reduceat(rows, self.first_atom)
        return rows

    def check_shapes(self) -> None:
        """Refuse arrays that do not belong to these molecules.

        Raises:
            ValueError: A name is unknown, or a shape disagrees with ``n_atoms``.
        """
        for name, array in self.values.items():
            if name not in QUANTITIES:
                raise ValueError(
                    f"unknown quantity {name!r}; known are {sorted(QUANTITIES)}"
                )
            expected = QUANTITIES[name].row_shape(len(self), self.num_atoms)
            if np.shape(array) != expected:
                raise ValueError(
                    f"{name} has shape {np.shape(array)}, expected {expected} for "
                    f"{len(self)} molecules of {self.num_atoms} atoms"
                )

    @classmethod
    def from_atoms(
        cls,
        atoms: "Sequence[Atoms]",
        states: Sequence[ElectronicState] | None = None,
    ) -> "Molecules":
        """Structures and states of ``Atoms``; labels are not read.

        Args:
            atoms: One or more.
            states: The state of each; None: what its ``info`` and so on say.

        Raises:
            ValueError: No atoms, a position that is not finite, periodic directions
                without as many independent cell vectors, or a state that cannot be.
        """
        for one in atoms:
            check_structure(one)
        chosen = [resolve_state(one) for one in atoms] if states is None else states
        return cls(
            np.array([len(one) for one in atoms], np.int32),
            {
                "atomic_numbers": _joined([one.numbers for one in atoms], np.int32),
                "positions": _joined([one.positions for one in atoms], np.float64),
                "cell": np.array([one.cell.array for one in atoms], np.float64),
                "pbc": np.array([one.pbc for one in atoms], np.uint8),
                "total_charge": np.array([s.charge for s in chosen], np.int32),
                "spin_multiplicity": np.array(
                    [s.multiplicity for s in chosen], np.int32
                ),
            },
            np.arange(len(atoms)),
        )

    def to_atoms(self, molecule: int) -> "Atoms":
        """One molecule as ``Atoms``, its state in ``info``; labels stay behind."""
        from ase import Atoms

        one = self.take(np.array([molecule]))
        values = one.values
        atoms = Atoms(numbers=values["atomic_numbers"], positions=values["positions"])
        if "cell" in values:
            atoms.cell = np.nan_to_num(values["cell"][0])
            atoms.pbc = values["pbc"][0].astype(bool) if "pbc" in values else True
        [state] = one.states()
        atoms.info.update(charge=state.charge, spin_multiplicity=state.multiplicity)
        return atoms


def check_structure(atoms: "Atoms") -> None:
    """Refuse atoms that are none.

    Raises:
        ValueError: No atoms, a position that is not finite, or periodic directions
            without as many independent cell vectors.
    """
    if len(atoms) == 0:
        raise ValueError("the structure has no atoms; give at least one")
    positions = atoms.positions
    if not np.isfinite(positions).all():
        bad = int(np.argmin(np.isfinite(positions).all(axis=1)))
        raise ValueError(
            f"position of atom {bad} is {positions[bad]}; positions must be finite "
            "numbers in Å"
        )
    pbc = atoms.pbc
    if not pbc.any():
        return
    periodic = atoms.cell.array[pbc]
    if not (
        np.isfinite(periodic).all() and np.linalg.matrix_rank(periodic) == len(periodic)
    ):
        raise ValueError(
            f"pbc={pbc.tolist()} needs that many independent cell vectors, got cell "
            f"{atoms.cell.array.tolist()}; set atoms.cell or atoms.pbc = False"
        )


def concatenate(batches: Sequence[Molecules]) -> Molecules:
    """Batches one after another; what a batch lacks is missing there, and absent."""
    if len(batches) == 1:
        return batches[0]
    values, absent = {}, {}
    for name in dict.fromkeys(name for batch in batches for name in batch.values):
        quantity = QUANTITIES[name]
        values[name] = np.concatenate(
            [
                batch.values[name]
                if name in batch.values
                else np.full(
                    quantity.row_shape(len(batch), batch.num_atoms), quantity.fill
                )
                for batch in batches
            ]
        )
        gone = [batch.absent.get(name, name not in batch.values) for batch in batches]
        if any(where is not False for where in gone):
            pairs = zip(gone, batches, strict=True)
            absent[name] = np.concatenate(
                [np.broadcast_to(where, len(batch)) for where, batch in pairs]
            )
    return Molecules(
        np.concatenate([batch.n_atoms for batch in batches]),
        values,
        np.concatenate([batch.rows for batch in batches]),
        _joined_words([batch.names for batch in batches], batches),
        _joined_words([batch.levels for batch in batches], batches),
        {name: where for name, where in absent.items() if where.any()},
        tuple(dict.fromkeys(fact for batch in batches for fact in batch.facts)),
    )


def gather(
    batches: Iterable[Molecules], count: int = 10_000, num_atoms: int = 300_000
) -> Iterator[Molecules]:
    """Join small batches until there are ``count`` molecules or ``num_atoms`` atoms.

    A new batch begins where the facts change, so that they stay with their molecules.
    """
    held: list[Molecules] = []
    molecules = atoms = 0
    for batch in batches:
        if len(batch) == 0:
            continue
        size = batch.num_atoms
        full = molecules + len(batch) > count or atoms + size > num_atoms
        if held and (full or batch.facts != held[-1].facts):
            yield concatenate(held)
            held, molecules, atoms = [], 0, 0
        held.append(batch)
        molecules += len(batch)
        atoms += size
    if held:
        yield concatenate(held)


def _joined(arrays: Sequence[Array], dtype: Any) -> Array:
    if len(arrays) == 1:
        return np.array(arrays[0], dtype)
    return np.concatenate(arrays).astype(dtype)


def _joined_words(
    words: Sequence[Array | None], batches: Sequence[Molecules]
) -> Array | None:
    """Names or levels of all batches, empty where a batch has none."""
    if all(part is None for part in words):
        return None
    return np.concatenate(
        [
            np.full(len(batch), "") if part is None else part
            for part, batch in zip(words, batches, strict=True)
        ]
    )
