"""Read a packed dataset: one directory or a root of shards, memory-mapped."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.quantities import QUANTITIES, Quantity, labels
from physnet_training.distinct_states import distinct_states, lowest_multiplicities
from physnet_training.packed.files import (
    MANIFEST,
    N_ATOMS,
    OFFSETS,
    OLD_CHARGE,
    REPORT,
    SCHEMA_VERSION,
    check_seal,
    read_json,
    sha256,
    units,
)

Array = NDArray[Any]
OnFile = Callable[[Path, int], None]
"""Called with each file that was read, and its bytes."""
_PART = 1 << 18  # rows read at once when a property has to be found out
_SCAN = 1 << 16  # molecules checked at once: what is read stays in the cache
_LARGEST = 1e9  # of any number in eV, Å and e; random bytes exceed it at once
_BATCH_MOLECULES = 1 << 16
_BATCH_ATOMS = 1 << 18  # 3 MB of positions; work arrays on top stay below 50 MB


class Shard:
    """A directory with ``offsets.npy``, ``n_atoms.npy`` and the raw arrays.

    Args:
        path: The directory. Without a manifest (the origin's layout) the counts are
            taken from ``n_atoms.npy``.

    Raises:
        ValueError: A file is missing, foreign, truncated or of another size than the
            counts ask for; the message names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(path)
        self.n_atoms = _load_index(path / N_ATOMS, "<i4")
        self.offsets = _load_index(path / OFFSETS, "<i8")
        self.num_molecules = len(self.n_atoms)
        self._check_counts()
        self.num_atoms = int(self.offsets[-1])
        self.arrays: dict[str, Array] = {}
        for name, field in QUANTITIES.items():
            array = self._open(name, field)
            if array is not None:
                self.arrays[name] = array
        if "total_charge" not in self.arrays:
            raise ValueError(
                f"{path}: neither {QUANTITIES['total_charge'].file} nor "
                f"{OLD_CHARGE.file} is there, so the molecules' charges are unknown; "
                "convert the data again with a charge for each molecule"
            )

    def take(self, name: str, rows: Array) -> Array:
        """Rows of a field; NaN (or -1 for integers) where this shard lacks it."""
        field, array = QUANTITIES[name], self.arrays.get(name)
        if array is not None:
            return array.take(rows, axis=0).astype(field.dtype, copy=False)
        result = np.empty((len(rows), *field.shape), dtype=field.dtype)
        result[:] = self._fill(name)
        return result

    def take_into(self, name: str, rows: Array, result: Array) -> None:
        """As ``take``, written to ``result``; the rows must be there."""
        array = self.arrays.get(name)
        if array is None:
            result[:] = self._fill(name)
        elif array.dtype == result.dtype:
            array.take(rows, axis=0, out=result, mode="clip")  # others would buffer
        else:
            result[:] = array[rows]

    def _fill(self, name: str) -> float:
        """What stands for a field that this shard lacks."""
        if name == "level" and len(self.manifest.get("levels", [])) == 1:
            return 0
        return QUANTITIES[name].fill

    def verify(self, on_file: OnFile | None = None) -> int:
        """Recompute the checksums; return the number of files read.

        Args:
            on_file: Called with each file, and its bytes, when it was read.

        Raises:
            ValueError: A file differs from its checksum or has none; the message
                says so where it is another one of this directory.
        """
        checksums = self.manifest.get("sha256")
        if not checksums:
            raise ValueError(
                f"{self.path} holds no checksums ({MANIFEST} is missing or has none); "
                "convert the data again to get them"
            )
        check_seal(self.path / MANIFEST, self.manifest)
        for field in (*QUANTITIES.values(), OLD_CHARGE):
            if field.file not in checksums and (self.path / field.file).exists():
                raise ValueError(
                    f"{self.path / field.file} does not belong to this dataset: "
                    f"{MANIFEST} does not list it; remove it"
                )
        for file, expected in checksums.items():
            found = sha256(self.path / file)
            if found != expected:
                others = [name for name, other in checksums.items() if other == found]
                remark = f"; it holds what belongs into {others[0]}" if others else ""
                raise ValueError(
                    f"{self.path / file} was changed since it was written: sha256 is "
                    f"{found}, the manifest says {expected}{remark}; restore or "
                    "convert again"
                )
            if on_file is not None:
                on_file(self.path / file, (self.path / file).stat().st_size)
        return len(checksums)

    def _check_counts(self) -> None:
        if self.num_molecules == 0:
            raise ValueError(f"{self.path / N_ATOMS} holds no molecules; convert again")
        if len(self.offsets) != self.num_molecules + 1:
            raise ValueError(
                f"{self.path / OFFSETS} holds {len(self.offsets)} offsets, but "
                f"{self.num_molecules} molecules ({N_ATOMS}) need "
                f"{self.num_molecules + 1}; convert the data again"
            )
        row = self._first_disagreement()
        if row is not None:
            raise ValueError(
                f"{self.path}: {OFFSETS} and {N_ATOMS} disagree at molecule {row}: "
                f"the offsets span {int(self.offsets[row + 1] - self.offsets[row])} "
                f"atoms from {int(self.offsets[row])}, n_atoms is "
                f"{int(self.n_atoms[row])} (at least 1); convert the data again"
            )
        for key, found in (
            ("num_molecules", self.num_molecules),
            ("num_atoms", int(self.offsets[-1])),
        ):
            if self.manifest.get(key, found) != found:
                raise ValueError(
                    f"{self.path / MANIFEST} says {key} = {self.manifest[key]}, the "
                    f"files hold {found}; the directory is incomplete, convert again"
                )

    def _first_disagreement(self) -> int | None:
        """The first molecule whose offsets do not span its atoms; read in pieces."""
        if self.offsets[0] != 0:
            return 0
        for start in range(0, self.num_molecules, _SCAN):
            sizes = self.n_atoms[start : start + _SCAN]
            spans = np.diff(self.offsets[start : start + len(sizes) + 1])
            wrong = (spans != sizes) | (sizes < 1)
            if wrong.any():
                return start + int(np.argmax(wrong))
        return None

    def _open(self, name: str, field: Quantity) -> Array | None:
        path = self.path / field.file
        if name == "total_charge" and not path.exists():
            field, path = OLD_CHARGE, self.path / OLD_CHARGE.file
        listed = field.file in self.manifest.get("sha256", {})
        if not path.exists():
            if field.required or listed:
                raise ValueError(f"{path} is missing; convert the data again")
            return None
        count = self.num_atoms if field.per_atom else self.num_molecules
        expected, found = count * field.row_bytes, path.stat().st_size
        if expected != found:
            unit = "atoms" if field.per_atom else "molecules"
            raise ValueError(
                f"file size mismatch: {path} has {found} bytes, expected {expected} "
                f"({count} {unit} of {field.row_bytes} bytes); it is truncated or "
                "belongs to another dataset, convert the data again"
            )
        shape = (count, *field.shape)
        mapped = np.memmap(path, dtype=field.dtype, mode="r", shape=shape)
        return mapped.view(np.ndarray)  # a memmap's own indexing is slow


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
        self.levels, self._level_maps = _merge_names(shards, "levels")
        self.groups, self._group_maps = _merge_names(shards, "groups")

    @classmethod
    def open(
        cls, path: str | Path, *, assume_multiplicity: Literal["lowest"] | None = None
    ) -> "PackedDataset":
        """Open a directory, or a root of ``shard-00000/``, ``shard-00001/``, ….

        Args:
            path: The directory.
            assume_multiplicity: ``"lowest"`` gives molecules without a stored
                multiplicity the lowest one of the right parity, free atoms that of
                their ground state.

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
        return tuple(self.unique("atomic_numbers").tolist())

    @cached_property
    def labels(self) -> dict[str, int]:
        """Label -> number of molecules that have it; absent labels are left out."""
        total: Counter[str] = Counter()
        if all("labels" in manifest for manifest in self.manifests):
            for manifest in self.manifests:
                total.update(manifest["labels"])
        else:
            for batch in self.batches(tuple(label.name for label in labels())):
                for label in labels():
                    total[label.name] += int(batch.present(label.name).sum())
        return {
            label.name: total[label.name] for label in labels() if total[label.name]
        }

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
        total = self.num_atoms if QUANTITIES[name].per_atom else self.num_molecules
        found = [np.unique(self.take(name, rows)) for rows in parts(range(total))]
        return np.unique(np.concatenate(found))

    def take(self, name: str, rows: Array) -> Array:
        """Rows of a field: molecules, or atoms for the per-atom ones.

        Levels and groups are indices into ``levels`` and ``groups``, -1 where unknown.
        """
        return self.take_all([name], rows)[name]

    def take_all(self, names: Sequence[str], rows: Array) -> dict[str, Array]:
        """``take`` for several fields, all per molecule or all per atom."""
        if len(self._shards) == 1:
            return {name: self._shards[0].take(name, rows) for name in names}
        per_atom = bool(names) and QUANTITIES[names[0]].per_atom
        starts = self._atom_starts if per_atom else self._starts
        rows = np.asarray(rows)
        ordered = bool((rows[1:] >= rows[:-1]).all())
        order = None if ordered else np.argsort(rows, kind="stable")
        ascending = rows if order is None else rows[order]
        ends = np.searchsorted(ascending, starts)
        found = {
            name: np.empty(
                (len(rows), *QUANTITIES[name].shape), dtype=QUANTITIES[name].dtype
            )
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

    def molecules(
        self,
        indices: Array | range | Sequence[int],
        quantities: Sequence[str] | None = None,
        *,
        check: bool = True,
    ) -> Molecules:
        """Some molecules, their charges and multiplicities always with them.

        Args:
            indices: Their numbers in the dataset; they become the ``rows``.
            quantities: What to read, missing where it is not stored; None: everything
                that is stored, with names and levels of theory in words.
            check: Refuse numbers that only a damaged file can hold.

        Raises:
            ValueError: A number is impossible; the message names the file.
        """
        rows = np.asarray(indices, dtype=np.int64)
        chosen = self.fields - {"level", "group"} if quantities is None else quantities
        names = sorted({*chosen, "total_charge"} - {"spin_multiplicity"})
        if len(rows) and (np.diff(rows) == 1).all():
            values = self._span(names, int(rows[0]), int(rows[-1]) + 1)
        else:
            per_atom = [name for name in names if QUANTITIES[name].per_atom]
            others = [name for name in names if not QUANTITIES[name].per_atom]
            values = self.take_all(others, rows)
            if per_atom:
                values |= self.take_all(per_atom, self.atom_rows(rows))
        values["spin_multiplicity"] = self.multiplicities(rows)
        found = Molecules(self.n_atoms[rows], values, rows)
        if check:
            self.check(found)
        if quantities is not None:
            return found
        words = self._words("group", self.groups, rows)
        levels = self._words("level", self.levels, rows)
        return replace(found, names=words, levels=levels)

    def _words(self, name: str, words: Sequence[str], rows: Array) -> Array:
        """The word behind each index, empty where it is -1."""
        try:
            return np.array([*words, ""])[self.take(name, rows)]
        except IndexError as error:
            raise ValueError(
                f"{self.path}: {QUANTITIES[name].file} holds a number beyond the "
                f"{len(words)} of {MANIFEST}; it is damaged, restore it or convert "
                "again"
            ) from error

    def batches(
        self,
        quantities: Sequence[str] | None = None,
        *,
        check: bool = True,
        first: int = 0,
    ) -> Iterator[Molecules]:
        """All molecules from one on, in batches of bounded size; see ``molecules``."""
        count = self.num_molecules
        while first < count:
            end = min(first + _BATCH_MOLECULES, count)
            limit = int(self.offsets[first]) + _BATCH_ATOMS
            spans = self.offsets[first : end + 1]
            fitting = int(np.searchsorted(spans, limit, "right"))
            end = first + max(min(fitting - 1, end - first), 1)
            yield self.molecules(range(first, end), quantities, check=check)
            first = end

    def _span(self, names: Sequence[str], first: int, end: int) -> dict[str, Array]:
        """Consecutive molecules, read-only: views where that is possible."""
        atoms, values = (int(self.offsets[first]), int(self.offsets[end])), {}
        alone = self._shards[0].arrays if len(self._shards) == 1 else {}
        for name in names:
            field, array = QUANTITIES[name], alone.get(name)
            start, stop = atoms if field.per_atom else (first, end)
            if array is not None and array.dtype == field.dtype:
                values[name] = array[start:stop]
            else:
                values[name] = self.take(name, np.arange(start, stop))
        return values

    def check(self, molecules: Molecules) -> None:
        """Refuse numbers that no conversion writes; costs a look at each.

        Raises:
            ValueError: Some number is impossible; the message names file and molecule.
        """
        for name, array in molecules.values.items():
            wrong = _impossible(name, array)
            if wrong is None:
                continue
            owner = int(molecules.owner[wrong]) if QUANTITIES[name].per_atom else wrong
            row = int(molecules.rows[owner])
            shard = int(np.searchsorted(self._starts, row, "right")) - 1
            file = self._shards[shard].path / QUANTITIES[name].file
            raise ValueError(
                f"{file}: molecule {row} holds {name} {array[wrong].tolist()}, "
                "which no conversion writes: the file is damaged. physnet-train "
                "inspect --verify compares the checksums; restore the file or convert "
                "again"
            )

    def atom_rows(self, molecules: Array) -> Array:
        """Atom indices of these molecules, in their order. [atoms] int64."""
        sizes = self.n_atoms[molecules]
        first = self.offsets[molecules] - (np.cumsum(sizes) - sizes)
        return np.repeat(first, sizes) + np.arange(int(sizes.sum()))

    def multiplicities(self, molecules: Array) -> Array:
        """2S+1, NaN where it is neither stored nor assumed. [molecules] float32."""
        spin = self.take("spin_multiplicity", np.asarray(molecules))
        missing = ~np.isfinite(spin)
        if self.assume_multiplicity is None or not missing.any():
            return spin
        rows = molecules[missing]
        numbers = self.take("atomic_numbers", self.atom_rows(rows))
        charge = self.take("total_charge", rows)
        lowest = lowest_multiplicities(numbers, self.n_atoms[rows], charge)
        unknown = np.isnan(lowest)
        if unknown.any():
            raise ValueError(
                f"{self.path}: molecule {rows[unknown][0]} is a free atom without a "
                "multiplicity, whose ground state no table here says; convert the "
                "spins too"
            )
        spin = np.array(spin)
        spin[missing] = lowest
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

    def verify(self, on_file: OnFile | None = None) -> int:
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

    def verify_later(self) -> "Future[int]":
        """``verify`` in a thread that ends with the program.

        Returns:
            The number of files read, or the error; 0 where there are no checksums.
        """
        future: Future[int] = Future()

        def work() -> None:
            try:
                known = all(manifest.get("sha256") for manifest in self.manifests)
                future.set_result(self.verify() if known else 0)
            except Exception as error:
                future.set_exception(error)

        threading.Thread(target=work, name="packed-verify", daemon=True).start()
        return future


def parts(rows: Array | range) -> Iterator[Array]:
    """The rows in arrays of bounded length."""
    for start in range(0, len(rows), _PART):
        yield np.asarray(rows[start : start + _PART])


def _merge_names(shards: list[Shard], key: str) -> tuple[tuple[str, ...], list[Array]]:
    """Names of all shards, and per shard old index -> new index (last entry: -1)."""
    names: dict[str, int] = {}
    maps = []
    for shard in shards:
        mine = [names.setdefault(n, len(names)) for n in shard.manifest.get(key, [])]
        maps.append(np.array([*mine, -1], dtype=np.int64))
    return tuple(names), maps


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a directory, empty where there is none.

    Raises:
        ValueError: It is not JSON, not ours, or of a newer schema.
    """
    file = path / MANIFEST
    if not file.exists():
        return {}
    manifest = read_json(file)
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int):
        raise ValueError(
            f"{file} is no manifest of a packed dataset: no schema_version"
        )
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{file} has schema_version {version}, this version reads up to "
            f"{SCHEMA_VERSION}; update physnet-ase or convert the data again"
        )
    stated, ours = manifest.get("units", {}), units()
    wrong = [
        f"{name} in {stated[name]}, always {ours[name]} here"
        for name in ours
        if isinstance(stated, dict) and stated.get(name, ours[name]) != ours[name]
    ]
    if wrong or not isinstance(stated, dict):
        raise ValueError(
            f"{file} was changed since it was written: its units are not those of a "
            f"packed dataset ({'; '.join(wrong) or stated}); restore it or convert "
            "again"
        )
    return dict(manifest)


def _load_index(path: Path, dtype: str) -> Array:
    """A one-dimensional integer ``.npy`` file, memory-mapped."""
    if not path.exists():
        raise ValueError(
            f"{path} is missing: {path.parent} is no packed dataset; make one with "
            "physnet-train convert SOURCE TARGET"
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        # NumPy advises to load what it cannot read without its safety catch.
        reason = "it holds no array" if "allow_pickle" in str(error) else error
        raise ValueError(
            f"{path} cannot be read: {reason}; it is damaged, restore it or convert "
            "again"
        ) from error
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{path} must be a one-dimensional integer array, it holds "
            f"{array.dtype} of shape {array.shape}; convert the data again"
        )
    return np.asarray(array).astype(dtype, copy=False)


def _impossible(name: str, array: Array) -> int | None:
    """The first row with a number that no dataset holds; None where there is none."""
    if array.size == 0 or array.dtype.kind == "u" or name in ("level", "group"):
        return None
    if name == "atomic_numbers":
        if array.min() >= 1 and array.max() <= 118:
            return None
        return int(np.argmax((array < 1) | (array > 118)))
    if -_LARGEST < array.min() and array.max() < _LARGEST:
        return None  # NaN fails both comparisons
    wrong = np.abs(array) >= _LARGEST
    if name in ("positions", "total_charge"):  # elsewhere NaN is a missing label
        wrong |= np.isnan(array)
    rows = wrong.reshape(len(array), -1).any(axis=1)
    return int(np.argmax(rows)) if rows.any() else None
