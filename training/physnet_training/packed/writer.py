"""Write a packed dataset: streamed, in bounded memory, complete or not at all."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.quantities import QUANTITIES, Quantity, labels
from physnet_training.distinct_states import distinct_states
from physnet_training.packed.files import (
    ALWAYS,
    MANIFEST,
    MAX_GROUPS,
    N_ATOMS,
    OFFSETS,
    SCHEMA_VERSION,
    HashedFile,
    InvalidRow,
    InvalidRowsFile,
    publish,
    sha256,
    sync,
    units,
    write_sealed,
)

Array = NDArray[Any]
_CHUNK = 1 << 20
_REQUIRED = ("atomic_numbers", "positions", "total_charge")


class PackedWriter:
    """Appends molecules to a new packed dataset.

    Everything goes into a hidden directory next to the target, which gets the target's
    name in one rename when the ``with`` block ends well and is removed when it does
    not: nothing half-written ever stands under the target's name. Writing and its
    checksums happen in a thread, at most one ``append`` behind.

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
        self._tally = _Tally()
        self._levels = _Numbering(QUANTITIES["level"].dtype)
        self._groups = _Numbering(QUANTITIES["group"].dtype)
        self._too_many_groups = False
        self._invalid = InvalidRowsFile(self._folder)
        self._sizes = HashedFile(self._folder / "sizes.tmp")
        self._files: dict[str, HashedFile] = {}
        self._written = (0, 0)  # molecules and atoms in the files
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="packed-writer")
        self._pending: Future[None] | None = None
        for name in ALWAYS:
            self._open(name)

    def __enter__(self) -> "PackedWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Finish after success, remove everything after an error."""
        if kind is not None:
            self.abort()
            return
        try:
            self.finish()
        except BaseException:
            self.abort()
            raise

    @property
    def num_molecules(self) -> int:
        """Molecules appended so far."""
        return self._tally.num_molecules

    @property
    def num_atoms(self) -> int:
        """Atoms appended so far."""
        return self._tally.num_atoms

    def append(self, molecules: Molecules) -> None:
        """Append molecules.

        Args:
            molecules: Energies in eV, lengths in Å, charges in e; ``atomic_numbers``,
                ``positions`` and ``total_charge`` are required, a label that is absent
                or NaN counts as missing. By their names whole molecules can be held
                out.

        Raises:
            ValueError: An array is unknown, or its shape disagrees with the counts.
            OSError: The disk is full, now or in the ``append`` before.
        """
        stored = _as_stored(molecules)
        if len(stored) == 0:
            return
        if molecules.levels is not None:
            stored.values["level"] = self._levels(molecules.levels)
        if molecules.names is not None and not self._too_many_groups:
            stored.values["group"] = self._groups(molecules.names)
            self._too_many_groups = len(self._groups.names) > MAX_GROUPS
        self._wait()
        self._pending = self._thread.submit(self._write, stored)
        self._tally.add(stored)

    def report_invalid(self, rows: Iterable[InvalidRow]) -> None:
        """List molecules that were skipped, or kept in spite of a problem."""
        self._invalid.write(rows)

    def finish(self) -> Path:
        """Write the manifest and give the directory its name.

        Raises:
            ValueError: No molecules were appended, or the target appeared meanwhile.
            OSError: The disk is full.
        """
        if self.num_molecules == 0:
            raise ValueError(f"{self.target}: zero molecules, nothing to write")
        self._wait()
        self._thread.shutdown()
        checksums = {
            QUANTITIES[n].file: file.finish() for n, file in self._files.items()
        }
        self._files.clear()
        if self._too_many_groups:
            (self._folder / QUANTITIES["group"].file).unlink()
            del checksums[QUANTITIES["group"].file]
            self._groups.names.clear()
        self._sizes.finish()
        self._invalid.close()
        for path in self._write_index():
            sync(path)
            checksums[path.name] = sha256(path)
        write_sealed(self._folder / MANIFEST, self._manifest(checksums))
        publish(self._folder, self.target)
        return self.target

    def abort(self) -> None:
        """Remove everything written so far."""
        self._thread.shutdown()
        self._invalid.close()
        for file in (self._sizes, *self._files.values()):
            file.close()
        self._files.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self) -> None:
        """Until the thread has written what was appended last; raise its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, stored: Molecules) -> None:
        """The thread's part: one call at a time, in the order of the appends."""
        self._sizes.write(stored.n_atoms)
        for name, array in stored.values.items():
            if name not in self._files and _has_content(array):
                self._open(name)
        for name, file in self._files.items():
            if name in stored.values:
                file.write(stored.values[name])
            else:
                quantity = QUANTITIES[name]
                rows = stored.num_atoms if quantity.per_atom else len(stored)
                _write_missing(file, quantity, rows)
        molecules, atoms = self._written
        self._written = (molecules + len(stored), atoms + stored.num_atoms)

    def _open(self, name: str) -> None:
        """Start a file; molecules that came before lack this label."""
        quantity = QUANTITIES[name]
        file = HashedFile(self._folder / quantity.file)
        _write_missing(file, quantity, self._written[1 if quantity.per_atom else 0])
        self._files[name] = file

    def _write_index(self) -> list[Path]:
        """Indices from the streamed sizes, in pieces; the files without a checksum."""
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
        index = [self._folder / N_ATOMS, self._folder / OFFSETS]
        return [*index, self._invalid.path] if self._invalid.counts else index

    def _manifest(self, checksums: Mapping[str, str]) -> dict[str, Any]:
        dropped = (
            f"more than {MAX_GROUPS} distinct names: the names were dropped, whole "
            "molecules cannot be held out"
        )
        return {
            "schema_version": SCHEMA_VERSION,
            "format": "physnet packed dataset",
            "units": units(),
            **self._tally.summary(),
            "levels": list(self._levels.names),
            "groups": list(self._groups.names),
            "sha256": dict(sorted(checksums.items())),
            "provenance": self.provenance,
            "notes": [dropped] if self._too_many_groups else [],
            "invalid_rows": dict(self._invalid.counts),
        }


class _Tally:
    """What a manifest says about molecules, counted while they are written."""

    def __init__(self) -> None:
        self.num_molecules = 0
        self.num_atoms = 0
        self._elements: set[int] = set()
        self._states: Counter[tuple[int, int]] = Counter()
        self._labels: Counter[str] = Counter()

    def add(self, molecules: Molecules) -> None:
        """Count some molecules more."""
        self.num_molecules += len(molecules)
        self.num_atoms += molecules.num_atoms
        self._elements.update(_distinct(molecules.values["atomic_numbers"]))
        for label in labels():
            if label.name in molecules.values:
                present = molecules.present(label.name)
                self._labels[label.name] += int(np.count_nonzero(present))
        spin = molecules.values.get("spin_multiplicity")
        if spin is None:
            return
        known = np.isfinite(spin)
        charge = molecules.values["total_charge"][known]
        states, _, counts = distinct_states(charge, spin[known])
        for (q, m), count in zip(states.tolist(), counts.tolist(), strict=True):
            self._states[q, m] += count

    def summary(self) -> dict[str, Any]:
        """The manifest's entries."""
        return {
            "num_molecules": self.num_molecules,
            "num_atoms": self.num_atoms,
            "elements": sorted(self._elements),
            "states": [
                {"charge": charge, "multiplicity": multiplicity, "count": count}
                for (charge, multiplicity), count in sorted(self._states.items())
            ],
            "spin_known": self._states.total() == self.num_molecules,
            "labels": {
                label.name: self._labels[label.name]
                for label in labels()
                if self._labels[label.name]
            },
        }


class _Numbering:
    """Numbers names in order of their appearance; -1 for an empty one."""

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.names: dict[str, int] = {}

    def __call__(self, names: Array) -> Array:
        known, array = self.names, np.asarray(names, dtype=str)
        count = 1
        if len(array) and (array == array[0]).all():  # often one level for all
            array, count = array[:1], len(array)
        numbers = [
            known.setdefault(name, len(known)) if name else -1
            for name in map(str, array.tolist())
        ]
        if len(known) > np.iinfo(self.dtype).max:
            raise ValueError(
                f"{len(known)} different levels of theory or names, such as "
                f"{next(reversed(known))!r}; at most {np.iinfo(self.dtype).max} fit"
            )
        return np.repeat(np.array(numbers, dtype=self.dtype), count)


def _as_stored(molecules: Molecules) -> Molecules:
    """Copies in their types on disk, after a check of names and shapes."""
    missing = sorted(set(_REQUIRED) - set(molecules.values))
    if missing:
        raise ValueError(f"append: missing arrays {missing}")
    molecules.check_shapes()
    # Copies: the thread writes them while the caller goes on.
    arrays = {
        name: np.array(value, dtype=QUANTITIES[name].dtype, order="C")
        for name, value in molecules.values.items()
    }
    sizes = np.array(molecules.n_atoms, dtype="<i4")
    return Molecules(sizes, arrays, molecules.rows)


def _distinct(numbers: Array) -> list[int]:
    """Distinct values; without sorting where they are small."""
    if numbers.min() < 0 or numbers.max() > 255:
        found: list[int] = np.unique(numbers).tolist()
        return found
    return list(np.flatnonzero(np.bincount(numbers)).tolist())


def _has_content(array: Array) -> bool:
    """Whether an optional array says anything."""
    if array.dtype.kind == "f":
        return bool(np.isfinite(array).any())
    return bool((array >= 0).any() if array.dtype.kind == "i" else array.any())


def _write_missing(file: HashedFile, quantity: Quantity, rows: int) -> None:
    for start in range(0, rows, _CHUNK):
        shape = (min(_CHUNK, rows - start), *quantity.shape)
        file.write(np.full(shape, quantity.fill, dtype=quantity.dtype))
