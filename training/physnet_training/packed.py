"""Read a packed dataset: one directory or a root of shards, memory-mapped."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from physnet_training.distinct_states import distinct_states
from physnet_training.storage.durable import check_seal, read_json
from physnet_training.storage.layout import FIELDS, LABELS, REPORT
from physnet_training.storage.shard import FileProgress, Shard, merge_names, parts

Array = NDArray[Any]


class PackedDataset:
    """Molecules on disk, addressed by one index over all shards.

    Energies are total energies in eV, lengths in Å, charges in e, spin as 2S+1.

    Attributes:
        path: The directory.
        manifests: The manifest of each shard, empty dictionaries where there is none.
        n_atoms: [molecules] int32.
        offsets: [molecules + 1] int64, first atom of each molecule.
    """

    def __init__(
        self,
        path: Path,
        shards: list[Shard],
        assume_multiplicity: Literal["lowest"] | None = None,
    ) -> None:
        if assume_multiplicity not in (None, "lowest"):
            raise ValueError(
                "assume_multiplicity must be None or 'lowest', got "
                f"{assume_multiplicity!r}"
            )
        self.path = path
        self.assume_multiplicity = assume_multiplicity
        self.manifests = [shard.manifest for shard in shards]
        self._shards = shards
        self._starts = np.cumsum([0] + [shard.num_molecules for shard in shards])
        self._atom_starts = np.cumsum([0] + [shard.num_atoms for shard in shards])
        if len(shards) == 1:
            self.n_atoms, self.offsets = shards[0].n_atoms, shards[0].offsets
        else:
            self.n_atoms = np.concatenate([shard.n_atoms for shard in shards])
            self.offsets = np.empty(self.num_molecules + 1, dtype=np.int64)
            for index, shard in enumerate(shards):
                mine = slice(self._starts[index], self._starts[index + 1] + 1)
                start = self._atom_starts[index]
                np.add(shard.offsets, start, out=self.offsets[mine])
        self.levels, self._level_maps = merge_names(shards, "levels")
        self.groups, self._group_maps = merge_names(shards, "groups")

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        assume_multiplicity: Literal["lowest"] | None = None,
    ) -> "PackedDataset":
        """Open a directory, or a root of ``shard-00000/``, ``shard-00001/``, ….

        Args:
            path: The directory.
            assume_multiplicity: ``"lowest"`` gives molecules without a stored
                multiplicity the lowest one of the right parity.

        Raises:
            ValueError: No such directory, a shard is missing from the sequence, or a
                file is damaged; the message names it.
        """
        path = Path(path)
        if not path.is_dir():
            raise ValueError(
                f"{path} is no directory; make a packed dataset with physnet-train "
                "convert SOURCE TARGET"
            )
        folders = sorted(path.glob("shard-*"))
        for index, folder in enumerate(folders):
            if folder.name != f"shard-{index:05d}":
                raise ValueError(
                    f"{path}: expected shard-{index:05d}, found {folder.name}; the "
                    "shards must be numbered without gaps, restore the missing one"
                )
        shards = [Shard(folder) for folder in folders or [path]]
        return cls(path, shards, assume_multiplicity)

    def __len__(self) -> int:
        return self.num_molecules

    @property
    def num_molecules(self) -> int:
        """Number of molecules."""
        return int(self._starts[-1])

    @property
    def num_atoms(self) -> int:
        """Number of atoms of all molecules together."""
        return int(self._atom_starts[-1])

    @property
    def fields(self) -> frozenset[str]:
        """Names of the arrays that at least one shard holds."""
        return frozenset().union(*(shard.arrays for shard in self._shards))

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers present, ascending."""
        if all("elements" in manifest for manifest in self.manifests):
            found = {z for manifest in self.manifests for z in manifest["elements"]}
            return tuple(sorted(found))
        return tuple(np.unique(self.unique("atomic_numbers")).tolist())

    @cached_property
    def labels(self) -> dict[str, int]:
        """Label -> number of molecules that have it; absent labels are left out."""
        if all("labels" in manifest for manifest in self.manifests):
            total: Counter[str] = Counter()
            for manifest in self.manifests:
                total.update(manifest["labels"])
        else:
            total = Counter({name: self._count(name) for name in LABELS})
        return {name: total[name] for name in LABELS if total[name] > 0}

    @cached_property
    def spin_known(self) -> bool:
        """Whether every molecule has a stored multiplicity."""
        if all("spin_known" in manifest for manifest in self.manifests):
            return all(manifest["spin_known"] for manifest in self.manifests)
        return bool(np.isfinite(self.unique("spin_multiplicity")).all())

    @cached_property
    def states(self) -> dict[tuple[int, int], int]:
        """(charge, multiplicity) -> number of molecules, ascending.

        Molecules whose multiplicity is neither stored nor assumed are left out.
        """
        stored = all("states" in manifest for manifest in self.manifests)
        if stored and (self.assume_multiplicity is None or self.spin_known):
            total: Counter[tuple[int, int]] = Counter()
            for manifest in self.manifests:
                for row in manifest["states"]:
                    total[row["charge"], row["multiplicity"]] += row["count"]
            return dict(sorted(total.items()))
        return self.count_states(range(self.num_molecules), skip_unknown=True)

    def count_states(
        self, molecules: Array | range, *, skip_unknown: bool = False
    ) -> dict[tuple[int, int], int]:
        """(charge, multiplicity) -> number of some molecules, ascending.

        Args:
            molecules: Their indices.
            skip_unknown: Leave molecules without a multiplicity out.

        Raises:
            ValueError: A multiplicity is not known and not to be skipped.
        """
        total: Counter[tuple[int, int]] = Counter()
        for rows in parts(molecules):
            if skip_unknown:
                rows = rows[np.isfinite(self.multiplicities(rows))]
            values, _, counts = distinct_states(*self.states_of(rows))
            for (q, m), count in zip(values.tolist(), counts.tolist(), strict=True):
                total[q, m] += count
        return dict(sorted(total.items()))

    def unique(self, name: str) -> Array:
        """Distinct values of a field, NaN once, found in bounded memory."""
        total = self.num_atoms if FIELDS[name].per_atom else self.num_molecules
        found = [np.unique(self.take(name, rows)) for rows in parts(range(total))]
        return np.unique(np.concatenate(found))

    def take(self, name: str, rows: Array) -> Array:
        """Rows of a field: molecules, or atoms for the per-atom ones.

        Levels and groups are indices into ``levels`` and ``groups``, -1 where unknown.
        """
        return self.take_all([name], rows)[name]

    def span(self, name: str, start: int, end: int) -> Array:
        """``take`` for consecutive rows, read-only: a view where that is possible."""
        array = self._shards[0].arrays.get(name)
        if len(self._shards) == 1 and array is not None:
            if array.dtype == FIELDS[name].dtype:
                return array[start:end]
        return self.take(name, np.arange(start, end))

    def take_all(self, names: Sequence[str], rows: Array) -> dict[str, Array]:
        """``take`` for several fields, all per molecule or all per atom."""
        if len(self._shards) == 1:
            return {name: self._shards[0].take(name, rows) for name in names}
        per_atom = bool(names) and FIELDS[names[0]].per_atom
        starts = self._atom_starts if per_atom else self._starts
        rows = np.asarray(rows)
        ordered = bool((rows[1:] >= rows[:-1]).all())
        order = None if ordered else np.argsort(rows, kind="stable")
        ascending = rows if order is None else rows[order]
        ends = np.searchsorted(ascending, starts)
        found = {
            name: np.empty((len(rows), *FIELDS[name].shape), dtype=FIELDS[name].dtype)
            for name in names
        }
        maps = {"level": self._level_maps, "group": self._group_maps}
        for index in np.flatnonzero(np.diff(ends)).tolist():
            mine = slice(ends[index], ends[index + 1])
            local = ascending[mine] - starts[index]
            for name, result in found.items():
                self._shards[index].take_into(name, local, result[mine])
                if name in maps:
                    result[mine] = maps[name][index][result[mine]]
        if order is not None:
            for result in found.values():
                result[order] = result.copy()
        return found

    def atom_rows(self, molecules: Array) -> Array:
        """Atom indices of these molecules, in their order. [atoms] int64."""
        sizes = self.n_atoms[molecules]
        first = self.offsets[molecules] - (np.cumsum(sizes) - sizes)
        return np.repeat(first, sizes) + np.arange(int(sizes.sum()))

    def multiplicities(self, molecules: Array) -> Array:
        """2S+1, NaN where it is neither stored nor assumed. [molecules] float32."""
        spin = self.take("spin_multiplicity", molecules)
        missing = ~np.isfinite(spin)
        if self.assume_multiplicity is None or not missing.any():
            return spin
        rows = molecules[missing]
        numbers = self.take("atomic_numbers", self.atom_rows(rows)).astype(np.int64)
        sizes = self.n_atoms[rows]
        protons = np.add.reduceat(numbers, np.cumsum(sizes) - sizes)
        electrons = protons - np.rint(self.take("total_charge", rows)).astype(np.int64)
        spin[missing] = 1 + electrons % 2
        return spin

    def states_of(self, molecules: Array) -> tuple[Array, Array]:
        """Charge and multiplicity as int32. [molecules] each.

        Raises:
            ValueError: A multiplicity is not known, or a charge is not whole.
        """
        charge = self.take("total_charge", molecules)
        spin = self.multiplicities(molecules)
        if not np.isfinite(spin).all():
            row = int(molecules[int(np.argmin(np.isfinite(spin)))])
            raise ValueError(
                f"{self.path} stores no spin multiplicity for molecule {row}; a "
                "spin-conditioned model needs it: convert the spins too, or say "
                "--assume-multiplicity lowest"
            )
        whole = np.stack([charge, spin], axis=1)
        wrong = ~(np.rint(whole) == whole).all(axis=1)
        if wrong.any():
            row = int(molecules[int(np.argmax(wrong))])
            raise ValueError(
                f"{self.path}: molecule {row} has charge {charge[wrong][0]} and "
                f"multiplicity {spin[wrong][0]}; both must be whole numbers, correct "
                "the source and convert again"
            )
        return charge.astype(np.int32), spin.astype(np.int32)

    def verify(self, on_file: FileProgress | None = None) -> int:
        """Recompute every checksum; return the number of files read.

        Args:
            on_file: Called with each file, and its bytes, when it was read.

        Raises:
            ValueError: A file was changed, or a shard holds no checksums.
        """
        report = self.path / REPORT
        if report.exists():
            check_seal(report, read_json(report))
        return sum(shard.verify(on_file) for shard in self._shards)

    def _count(self, name: str) -> int:
        """Molecules with a finite value in every component of a label."""
        if name not in self.fields:
            return 0
        count = 0
        for rows in parts(range(self.num_molecules)):
            per_atom = FIELDS[name].per_atom
            values = self.take(name, self.atom_rows(rows) if per_atom else rows)
            finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            if per_atom:
                first = np.cumsum(self.n_atoms[rows]) - self.n_atoms[rows]
                finite = np.logical_and.reduceat(finite, first)
            count += int(finite.sum())
        return count
