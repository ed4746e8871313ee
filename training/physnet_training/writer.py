"""Write a packed dataset: streamed, in bounded memory, complete or not at all."""

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_training.conversion.invalid_rows import InvalidRow, InvalidRowsFile
from physnet_training.storage.durable import HashedFile, publish, sync, write_sealed
from physnet_training.storage.layout import (
    FIELDS,
    MANIFEST,
    MAX_GROUPS,
    N_ATOMS,
    OFFSETS,
    SCHEMA_VERSION,
    UNITS,
    Field,
    sha256,
)
from physnet_training.storage.tally import Numbering, Tally

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
        self._tally = Tally()
        self._levels = Numbering(FIELDS["level"].dtype)
        self._groups = Numbering(FIELDS["group"].dtype)
        self._too_many_groups = False
        self._invalid = InvalidRowsFile(self._folder)
        self._sizes = HashedFile(self._folder / "sizes.tmp")
        self._files: dict[str, HashedFile] = {}
        self._written = (0, 0)  # molecules and atoms in the files
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="packed-writer")
        self._pending: Future[None] | None = None
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

    @property
    def num_molecules(self) -> int:
        """Molecules appended so far."""
        return self._tally.num_molecules

    @property
    def num_atoms(self) -> int:
        """Atoms appended so far."""
        return self._tally.num_atoms

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
            names: [molecules] name of each, by which whole molecules can be held out;
                an empty one belongs to no group.
            levels: [molecules] level of theory of each; empty where unknown.

        Raises:
            ValueError: An array is unknown, or its shape disagrees with the counts.
            OSError: The disk is full, now or in the ``append`` before.
        """
        sizes = np.array(n_atoms, dtype="<i4")
        arrays = _check_shapes(values, len(sizes), int(np.sum(sizes)))
        if len(sizes) == 0:
            return
        if levels is not None:
            arrays["level"] = self._levels(levels)
        if names is not None and not self._too_many_groups:
            arrays["group"] = self._groups(names)
            self._too_many_groups = len(self._groups.names) > MAX_GROUPS
        self._wait()
        self._pending = self._thread.submit(self._write, sizes, arrays)
        self._tally.add(sizes, arrays)

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
        checksums = {FIELDS[n].file: file.finish() for n, file in self._files.items()}
        self._files.clear()
        if self._too_many_groups:
            (self._folder / FIELDS["group"].file).unlink()
            del checksums[FIELDS["group"].file]
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

    def _write(self, sizes: Array, arrays: Mapping[str, Array]) -> None:
        """The thread's part: one call at a time, in the order of the appends."""
        count, atoms = len(sizes), int(np.sum(sizes))
        self._sizes.write(sizes)
        for name, array in arrays.items():
            if name not in self._files and _has_content(array):
                self._open(name)
        for name, file in self._files.items():
            field = FIELDS[name]
            if name in arrays:
                file.write(arrays[name])
            else:
                _write_missing(file, field, atoms if field.per_atom else count)
        self._written = (self._written[0] + count, self._written[1] + atoms)

    def _open(self, name: str) -> None:
        """Start a file; molecules that came before lack this label."""
        field = FIELDS[name]
        file = HashedFile(self._folder / field.file)
        _write_missing(file, field, self._written[1 if field.per_atom else 0])
        self._files[name] = file

    def _write_index(self) -> list[Path]:
        """``n_atoms.npy`` and ``offsets.npy`` from the streamed sizes, in pieces.

        Returns:
            The files that still have no checksum.
        """
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
            "units": UNITS,
            **self._tally.summary(),
            "levels": list(self._levels.names),
            "groups": list(self._groups.names),
            "sha256": dict(sorted(checksums.items())),
            "provenance": self.provenance,
            "notes": [dropped] if self._too_many_groups else [],
            "invalid_rows": dict(self._invalid.counts),
        }


def _check_shapes(
    values: Mapping[str, Array], count: int, atoms: int
) -> dict[str, Array]:
    """Copies in their types on disk, after a check of names and shapes."""
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
        # A copy: the thread writes it while the caller goes on.
        arrays[name] = np.array(value, dtype=field.dtype, order="C")
    return arrays


def _has_content(array: Array) -> bool:
    """Whether an optional array says anything."""
    if array.dtype.kind == "f":
        return bool(np.isfinite(array).any())
    return bool((array >= 0).any() if array.dtype.kind == "i" else array.any())


def _write_missing(file: HashedFile, field: Field, rows: int) -> None:
    """Fill rows with NaN, or -1 (0 for flags) in integer fields."""
    fill = {"f": np.nan, "u": 0, "i": -1}[np.dtype(field.dtype).kind]
    for start in range(0, rows, _CHUNK):
        shape = (min(_CHUNK, rows - start), *field.shape)
        file.write(np.full(shape, fill, dtype=field.dtype))
