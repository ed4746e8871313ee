"""Write a packed dataset: streamed, in bounded memory, complete or not at all."""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from physnet_training.layout import (
    FIELDS,
    LABELS,
    MANIFEST,
    MAX_GROUPS,
    N_ATOMS,
    OFFSETS,
    SCHEMA_VERSION,
    UNITS,
    Field,
    sha256,
)

Array = NDArray[Any]
_ALWAYS = (
    "atomic_numbers",
    "positions",
    "forces",
    "energy",
    "total_charge",
    "spin_multiplicity",
)
_CHUNK = 1 << 20


class PackedWriter:
    """Appends molecules to a new packed dataset.

    Everything goes into a hidden directory next to the target, which gets the target's
    name in one rename when the ``with`` block ends well and is removed when it does
    not: nothing half-written ever stands under the target's name.

    Args:
        target: The directory to make; it must not exist.
        provenance: Where the data comes from, stored in the manifest as it is.

    Raises:
        ValueError: The target exists already.
    """

    def __init__(
        self, target: str | Path, *, provenance: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.target = Path(target)
        if self.target.exists():
            raise ValueError(
                f"{self.target} exists already; choose another target or remove it"
            )
        self.provenance = [dict(entry) for entry in provenance]
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(
            tempfile.mkdtemp(
                prefix=f".{self.target.name}.partial-", dir=self.target.parent
            )
        )
        self._folder.chmod(0o755)  # mkdtemp makes it private; a dataset is not
        self._files: dict[str, BinaryIO] = {}
        self._sizes: BinaryIO = (self._folder / "sizes.tmp").open("w+b")
        self.num_molecules = 0
        self.num_atoms = 0
        self._elements: set[int] = set()
        self._states: Counter[tuple[int, int]] = Counter()
        self._labels: Counter[str] = Counter()
        self._levels: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        self._too_many_groups = False
        for name in _ALWAYS:
            self._open(name)

    def __enter__(self) -> "PackedWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish after success, remove everything after an error."""
        if kind is not None:
            self.abort()
            return
        try:
            self.finish()
        except BaseException:
            self.abort()
            raise

    def append(
        self,
        n_atoms: Array,
        values: Mapping[str, Array],
        *,
        names: Iterable[str] | None = None,
        levels: Iterable[str] | None = None,
    ) -> None:
        """Append molecules given as flat arrays.

        Args:
            n_atoms: [molecules] atoms of each.
            values: Field name (see ``layout.FIELDS``) -> array, one row per molecule
                or atom; energies in eV, lengths in Å, charges in e. ``atomic_numbers``,
                ``positions`` and ``total_charge`` are required; a label that is absent
                or NaN counts as missing.
            names: [molecules] the molecule's name, by which whole molecules can be
                held out; an empty one belongs to no group.
            levels: [molecules] level of theory of each; empty where unknown.

        Raises:
            ValueError: An array is unknown, or its shape disagrees with the counts.
        """
        count, atoms = len(n_atoms), int(np.sum(n_atoms))
        arrays = _check_shapes(values, count, atoms)
        if levels is not None:
            arrays["level"] = _numbered(self._levels, levels).astype("<i2")
        if names is not None and not self._too_many_groups:
            arrays["group"] = _numbered(self._groups, names)
            self._too_many_groups = len(self._groups) > MAX_GROUPS
        self._sizes.write(np.asarray(n_atoms, dtype="<i4").tobytes())
        for name, array in arrays.items():
            if name not in self._files and _has_content(array):
                self._open(name)
        for name, file in self._files.items():
            field = FIELDS[name]
            if name in arrays:
                file.write(np.ascontiguousarray(arrays[name]).tobytes())
            else:
                _write_missing(file, field, atoms if field.per_atom else count)
        self.num_molecules += count
        self.num_atoms += atoms
        self._count(n_atoms, arrays)

    def finish(self) -> Path:
        """Write the manifest and give the directory its name.

        Raises:
            ValueError: No molecules were appended, or the target appeared meanwhile.
        """
        if self.num_molecules == 0:
            raise ValueError(f"{self.target}: zero molecules, nothing to write")
        for file in self._files.values():
            file.close()
        self._files.clear()
        if self._too_many_groups:
            (self._folder / FIELDS["group"].file).unlink()
            self._groups.clear()
        self._write_index()
        manifest = self._manifest()
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        (self._folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
        if self.target.exists():
            raise ValueError(
                f"{self.target} appeared while it was being written; choose another"
            )
        self._folder.rename(self.target)
        return self.target

    def abort(self) -> None:
        """Remove everything written so far."""
        self._sizes.close()
        for file in self._files.values():
            file.close()
        self._files.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _open(self, name: str) -> None:
        """Start a file; molecules that came before lack this label."""
        field = FIELDS[name]
        file = (self._folder / field.file).open("wb")
        _write_missing(
            file, field, self.num_atoms if field.per_atom else self.num_molecules
        )
        self._files[name] = file

    def _count(self, n_atoms: Array, arrays: Mapping[str, Array]) -> None:
        self._elements.update(np.unique(arrays["atomic_numbers"]).tolist())
        first = np.cumsum(n_atoms) - n_atoms
        for name in LABELS:
            if name not in arrays:
                continue
            rows = arrays[name].reshape(len(arrays[name]), -1)
            finite = np.isfinite(rows).all(axis=1)
            if FIELDS[name].per_atom:
                finite = np.logical_and.reduceat(finite, first)
            self._labels[name] += int(finite.sum())
        spin = arrays.get("spin_multiplicity")
        if spin is not None:
            states = np.stack([arrays["total_charge"], spin], axis=1)
            states = states[np.isfinite(spin)].astype(int)
            self._states.update((q, m) for q, m in states.tolist())

    def _write_index(self) -> None:
        """``n_atoms.npy`` and ``offsets.npy`` from the streamed sizes, in pieces."""
        self._sizes.close()
        raw = self._folder / "sizes.tmp"
        sizes = np.memmap(raw, dtype="<i4", mode="r")
        make = np.lib.format.open_memmap
        count = self.num_molecules
        n_atoms = make(self._folder / N_ATOMS, "w+", dtype="<i4", shape=(count,))
        offsets = make(self._folder / OFFSETS, "w+", dtype="<i8", shape=(count + 1,))
        total = 0
        for start in range(0, count, _CHUNK):
            piece = sizes[start : start + _CHUNK]
            n_atoms[start : start + len(piece)] = piece
            sums = total + np.cumsum(piece, dtype=np.int64)
            offsets[start + 1 : start + 1 + len(piece)] = sums
            total = int(sums[-1])
        n_atoms.flush()
        offsets.flush()
        del sizes
        raw.unlink()

    def _manifest(self) -> dict[str, Any]:
        files = sorted(path.name for path in self._folder.iterdir())
        states = [
            {"charge": q, "multiplicity": m, "count": count}
            for (q, m), count in sorted(self._states.items())
        ]
        notes = []
        if self._too_many_groups:
            notes.append(
                f"more than {MAX_GROUPS} distinct names: the names were dropped, whole "
                "molecules cannot be held out"
            )
        return {
            "schema_version": SCHEMA_VERSION,
            "format": "physnet packed dataset",
            "units": UNITS,
            "num_molecules": self.num_molecules,
            "num_atoms": self.num_atoms,
            "elements": sorted(self._elements),
            "states": states,
            "spin_known": self._states.total() == self.num_molecules,
            "levels": list(self._levels),
            "labels": {n: self._labels[n] for n in LABELS if self._labels[n]},
            "groups": list(self._groups),
            "sha256": {name: sha256(self._folder / name) for name in files},
            "provenance": self.provenance,
            "notes": notes,
        }


def _check_shapes(
    values: Mapping[str, Array], count: int, atoms: int
) -> dict[str, Array]:
    """Arrays in their types on disk, after a check of names and shapes."""
    missing = {"atomic_numbers", "positions", "total_charge"} - set(values)
    unknown = set(values) - (set(FIELDS) - {"level", "group"})
    if missing or unknown:
        raise ValueError(
            f"append: missing arrays {sorted(missing)}, unknown arrays "
            f"{sorted(unknown)}; known are {sorted(set(FIELDS) - {'level', 'group'})}"
        )
    arrays = {}
    for name, value in values.items():
        field = FIELDS[name]
        expected = (atoms if field.per_atom else count, *field.shape)
        if np.shape(value) != expected:
            raise ValueError(
                f"append: {name} has shape {np.shape(value)}, expected {expected}"
            )
        arrays[name] = np.asarray(value).astype(field.dtype)
    return arrays


def _numbered(known: dict[str, int], names: Iterable[str]) -> Array:
    """Numbers of names in order of appearance; -1 for an empty one."""
    return np.array(
        [known.setdefault(str(n), len(known)) if n else -1 for n in names], dtype="<i4"
    )


def _has_content(array: Array) -> bool:
    """Whether an optional array says anything."""
    if array.dtype.kind == "f":
        return bool(np.isfinite(array).any())
    return bool((array >= 0).any() if array.dtype.kind == "i" else array.any())


def _write_missing(file: BinaryIO, field: Field, rows: int) -> None:
    """Fill rows with NaN, or -1 (0 for flags) in integer fields."""
    fill = {"f": np.nan, "u": 0, "i": -1}[np.dtype(field.dtype).kind]
    for start in range(0, rows, _CHUNK):
        shape = (min(_CHUNK, rows - start), *field.shape)
        file.write(np.full(shape, fill, dtype=field.dtype).tobytes())
