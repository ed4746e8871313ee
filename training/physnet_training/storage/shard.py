"""One directory of a packed dataset, memory-mapped and checked against its counts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_training.storage.durable import check_seal, read_json
from physnet_training.storage.layout import (
    FIELDS,
    MANIFEST,
    N_ATOMS,
    OFFSETS,
    OLD_CHARGE,
    SCHEMA_VERSION,
    Field,
    sha256,
)

Array = NDArray[Any]
FileProgress = Callable[[Path, int], None]
_PART = 1 << 18  # rows read at once when a property has to be found out
_SCAN = 1 << 16  # molecules checked at once: what is read stays in the cache


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
        for name, field in FIELDS.items():
            array = self._open(name, field)
            if array is not None:
                self.arrays[name] = array
        if "total_charge" not in self.arrays:
            raise ValueError(
                f"{path}: neither {FIELDS['total_charge'].file} nor {OLD_CHARGE.file} "
                "is there, so the molecules' charges are unknown; convert the data "
                "again with a charge for each molecule"
            )

    def take(self, name: str, rows: Array) -> Array:
        """Rows of a field; NaN (or -1 for integers) where this shard lacks it."""
        field, array = FIELDS[name], self.arrays.get(name)
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
        return {"f": np.nan, "u": 0, "i": -1}[np.dtype(FIELDS[name].dtype).kind]

    def verify(self, on_file: FileProgress | None = None) -> int:
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
        for field in (*FIELDS.values(), OLD_CHARGE):
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

    def _open(self, name: str, field: Field) -> Array | None:
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


def parts(rows: Array | range) -> Iterator[Array]:
    """The rows in arrays of bounded length."""
    for start in range(0, len(rows), _PART):
        yield np.asarray(rows[start : start + _PART])


def merge_names(shards: list[Shard], key: str) -> tuple[tuple[str, ...], list[Array]]:
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
        raise ValueError(f"{path} cannot be read: {error}; convert again") from error
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{path} must be a one-dimensional integer array, it holds "
            f"{array.dtype} of shape {array.shape}; convert the data again"
        )
    return np.asarray(array).astype(dtype, copy=False)
