"""Molecules out of extended XYZ, plain or gzipped, by way of ASE's reader."""

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from physnet_training.layout import FIELDS
from physnet_training.molecules import Molecules, ReadOptions
from physnet_training.naming import LABEL_QUANTITIES, find_keys, unit_suffix
from physnet_training.unit_choice import UnitChoice

Array = NDArray[Any]

_CHUNK = 2000  # frames held in memory at once
_DEFAULTS = {  # the convention of ASE, whose format this is
    "energy": "eV",
    "forces": "eV/angstrom",
    "stress": "eV/angstrom^3",
    "positions": "angstrom",
    "REF_energy": "eV",
    "REF_forces": "eV/angstrom",
}


def read_extxyz(
    path: Path, options: ReadOptions, units: dict[str, str]
) -> Iterator[Molecules]:
    """Frames of an extended XYZ file, in pieces.

    Args:
        path: The file.
        options: What the user says.
        units: Receives quantity -> the unit taken and why.

    Raises:
        ValueError: The file is damaged, a key or a unit is missing, or a shape is
            wrong; the message names the frame, counted from 0.
    """
    choice = UnitChoice(options, units, declared={}, defaults=_DEFAULTS)
    frames: list[_Frame] = []
    for row, atoms in enumerate(_frames(path)):
        try:
            frame = _Frame(row, atoms, choice)
        except ValueError as error:
            raise ValueError(f"{path}: molecule {row} (0-based): {error}") from error
        if row >= options.first_row and frame.chosen(options):
            frames.append(frame)
        if len(frames) == _CHUNK:
            yield _joined(frames)
            frames = []
    if frames:
        yield _joined(frames)


def _frames(path: Path) -> Iterator[Atoms]:
    row = 0
    try:
        with _plain_text(path) as file:
            for atoms in ase.io.iread(file, index=":", format="extxyz"):
                yield atoms
                row += 1
    except (OSError, ValueError, KeyError, IndexError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read at molecule {row} (0-based): {error}; the file is "
            "truncated or no extended XYZ"
        ) from error


def _plain_text(path: Path) -> IO[str]:
    """The file, decompressed: ASE seeks for every frame, which gzip makes slow."""
    if path.suffix != ".gz":
        return path.open(encoding="utf-8")
    file = tempfile.TemporaryFile("w+", encoding="utf-8")
    try:
        with gzip.open(path, "rt", encoding="utf-8") as packed:
            shutil.copyfileobj(packed, file)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


class _Frame:
    """What one frame says, in internal units."""

    def __init__(self, row: int, atoms: Atoms, choice: UnitChoice) -> None:
        self.row = row
        self.info = atoms.info
        # ASE moves energy, forces, … from the file into a calculator's results.
        results = atoms.calc.results if atoms.calc is not None else {}
        self.found: dict[str, Any] = {**atoms.arrays, **atoms.info, **results}
        self.n_atoms = len(atoms)
        if self.n_atoms == 0:
            raise ValueError("it has no atoms; remove the frame")
        keys = choice.options.keys
        length = choice.factor("positions", "positions")
        self.values: dict[str, Array] = {
            "atomic_numbers": atoms.numbers,
            "positions": atoms.positions * length,
            "pbc": np.asarray(atoms.pbc, dtype=np.uint8),
        }
        if atoms.pbc.any():
            self.values["cell"] = atoms.cell.array * length
        level = str(self.found.get("level_of_theory", ""))
        for quantity in LABEL_QUANTITIES:
            for key in find_keys(quantity, self.found, keys):
                name = "forces" if quantity == "gradient" else quantity
                self.values[name] = self._array(key, name) * choice.factor(
                    quantity, key
                )
                if quantity == "energy":
                    level = level or unit_suffix(quantity, key)[1]
        for quantity in ("total_charge", "spin_multiplicity"):
            value = self._agreeing(quantity, find_keys(quantity, self.found, keys))
            if value is not None:
                self.values[quantity] = np.asarray(value)
        if "method" in self.info and "basis" in self.info:
            level = level or f"{self.info['method']}/{self.info['basis']}"
        self.level = choice.options.level or level
        self.name = str(self.info.get("name", ""))

    def chosen(self, options: ReadOptions) -> bool:
        """Whether the frame says what ``where`` asks for."""
        return all(str(self.info.get(k)) == v for k, v in options.where.items())

    def _array(self, key: str, name: str) -> Array:
        field = FIELDS[name]
        lead = (self.n_atoms,) if field.per_atom else ()
        array = np.asarray(self.found[key])
        if array.shape != (*lead, *field.shape) or array.dtype.kind not in "iuf":
            raise ValueError(
                f"{key} is {array.dtype} of shape {array.shape}, expected numbers of "
                f"shape {(*lead, *field.shape)} as {name}"
            )
        return array

    def _agreeing(self, quantity: str, keys: list[str]) -> Array | None:
        values = [self._array(key, quantity) for key in keys]
        if any(value != values[0] for value in values):
            said = ", ".join(f"{k} = {v}" for k, v in zip(keys, values, strict=True))
            raise ValueError(
                f"{said} contradict each other; choose with --key {quantity}={keys[0]}"
            )
        return values[0] if values else None


def _joined(frames: list[_Frame]) -> Molecules:
    """Frames as flat arrays; what a frame lacks is NaN."""
    names = sorted(set().union(*(frame.values for frame in frames)))
    values = {}
    for name in names:
        field = FIELDS[name]
        parts = []
        for frame in frames:
            rows = frame.n_atoms if field.per_atom else 1
            shape = (rows, *field.shape)
            part = frame.values.get(name)
            parts.append(np.full(shape, np.nan) if part is None else part)
            parts[-1] = parts[-1].reshape(shape)
        values[name] = np.concatenate(parts)
    return Molecules(
        np.array([frame.row for frame in frames]),
        np.array([frame.n_atoms for frame in frames], dtype=np.int32),
        values,
        np.array([frame.name for frame in frames]),
        np.array([frame.level for frame in frames]),
        {n: np.array([n not in frame.values for frame in frames]) for n in names},
    )
