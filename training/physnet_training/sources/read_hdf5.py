"""Molecules out of HDF5 files: groups of arrays, read in slices.

Published layouts are recognised by what a group holds:

* SPICE (openmm/spice-dataset, ``downloader/downloader.py``): a group per molecule with
  one ``atomic_numbers`` for all ``conformations`` (bohr), ``dft_total_energy``
  (hartree), ``dft_total_gradient`` (hartree/bohr), ``scf_dipole`` (e·bohr),
  ``mbis_charges`` (e, shape (n, A, 1)) and the mapped SMILES; ωB97M-D3BJ/def2-TZVPPD.
  Eastman et al., Sci. Data 10, 11 (2023).
* ANI-1x and ANI-1ccx (aiqm/ANI1x_datasets): a group per formula, ``coordinates`` (Å),
  ``LEVEL.energy`` (hartree), ``LEVEL.forces`` (hartree/Å), NaN where a level was not
  computed. Smith et al., Sci. Data 7, 134 (2020). Sources disagree on the unit of its
  dipoles, so they are taken only when asked for.
* ANI-1 and ANI-2x, the layout of TorchANI: ``species``, ``coordinates`` (Å),
  ``energies`` (hartree), ``forces`` (hartree/Å). Devereux et al., J. Chem. Theory
  Comput. 16, 4192 (2020).
* AIMNet2 and AIMNet2-NSE (isayevlab/aimnetcentral): groups by size with ``coord`` (Å),
  ``numbers``, ``energy`` (eV), ``forces`` (eV/Å), ``dipole`` (e·Å), ``charges``,
  ``spin_charges``, ``charge``, ``mult``.
* QM7-X: a group per molecule, in it one per geometry with ``atNUM``, ``atXYZ`` (Å),
  ``ePBE0+MBD`` (eV), ``totFOR`` (eV/Å), ``vDIP`` (e·Å), ``hCHG``; closed-shell neutral
  molecules. Hoja et al., Sci. Data 8, 43 (2021).
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers as NUMBER_OF
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules, gather
from physnet_training.sources.arrays import (
    ArrayTable,
    Definition,
    Rows,
    count_molecules,
    plain_text,
    read_batches,
)
from physnet_training.sources.keys import Reading, ReadOptions, find_keys

Array = NDArray[Any]
_NEEDED = ("atomic_numbers", "positions")


def read_hdf5(
    path: Path, options: ReadOptions, reading: Reading
) -> Iterator[Molecules]:
    """Molecules of an HDF5 file, group after group in the order of their names.

    SPICE, ANI and AIMNet files are recognised by their keys and bring their units; of
    others the units stand in attributes or are asked for. Rows are counted over all
    groups. Molecules are named after their group where a group holds one composition.

    Raises:
        ValueError: As for ``read_npz``; the message names the group too.
    """
    h5py = _h5py(path)
    try:
        with h5py.File(path, "r") as file:
            yield from gather(_molecules(path, file, options, reading))
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read as HDF5: {error}; it is truncated or damaged, "
            "export it again"
        ) from error


def count_hdf5(path: Path) -> int | None:
    """Number of molecules in all groups; None where their shapes do not say."""
    h5py = _h5py(path)
    try:
        with h5py.File(path, "r") as file:
            return sum(
                _count(arrays, _recognise(arrays, ReadOptions()), ReadOptions())
                for _, arrays in _tables(file)
            )
    except (OSError, RuntimeError, ValueError):
        return None  # reading it says what is wrong


def _h5py(path: Path) -> Any:
    try:
        import h5py  # an extra: reading other formats does not need it
    except ImportError as error:
        raise ValueError(
            f"{path}: reading HDF5 needs h5py; install physnet-ase[train]"
        ) from error
    return h5py


def _molecules(
    path: Path, file: Any, options: ReadOptions, reading: Reading
) -> Iterator[Molecules]:
    """Batches of every group, none larger than one may be."""
    row, found = 0, False
    for name, arrays in _tables(file):
        definition = _recognise(arrays, options)
        if not any(
            options.keys[quantity] in arrays
            if quantity in options.keys
            else find_keys(quantity, arrays, {})
            for quantity in _NEEDED
        ):
            continue  # something else, such as metadata
        found = True
        try:
            count = _count(arrays, definition, options)
            first, row = options.first_row - row, row + count
            if count == 0 or first >= count:
                continue
            for quantity, array in _known_state(arrays, definition, count).items():
                if not find_keys(quantity, arrays, options.keys):
                    arrays[quantity] = array
            numbers = _find("atomic_numbers", arrays, definition, options)
            if numbers is not None and len(arrays[numbers].shape) == 1:
                arrays.setdefault("name", np.full(count, _name(name, definition)))
            table = ArrayTable(arrays, options, reading, definition=definition)
            for batch in read_batches(table, max(first, 0), row - count):
                yield _with_labels(batch) if definition.nan_is_missing else batch
        except ValueError as error:
            raise ValueError(f"{path}, group {name}: {error}") from error
    if not found:
        raise ValueError(
            f"{path}: no group holds atomic numbers and positions; name their keys "
            "with --key atomic_numbers=NAME, --key positions=NAME"
        )


def _name(group: str, definition: Definition) -> str:
    """The molecule that a group holds geometries of."""
    parent, _, own = group.rpartition("/")
    return parent.rpartition("/")[2] if definition is _QM7X and parent else own


def _with_labels(batch: Molecules) -> Molecules:
    """Without the molecules that have neither energy nor forces."""
    none = np.zeros(len(batch), dtype=bool)
    gone = [
        batch.absent.get(name, none)
        for name in ("energy", "forces")
        if name in batch.values
    ]
    return batch.keep(~np.logical_and.reduce(gone)) if gone else batch


def _find(
    quantity: str,
    arrays: Mapping[str, Rows],
    definition: Definition,
    options: ReadOptions,
) -> str | None:
    """The key of a quantity by the user's choice, by definition, or by its name."""
    known = {q: k for q, k in definition.keys.items() if k in arrays}
    keys = find_keys(quantity, arrays, {**known, **options.keys})
    return keys[0] if keys else None


def _count(
    arrays: Mapping[str, Rows], definition: Definition, options: ReadOptions
) -> int:
    """Molecules of a group; none where all its arrays are empty."""
    positions = _find("positions", arrays, definition, options)
    if positions is None:
        return 1  # the table says what is missing
    if arrays[positions].shape[0] == 0:
        return 0
    n_atoms = _find("n_atoms", arrays, definition, options)
    return count_molecules(arrays, positions, n_atoms)


def _tables(group: Any) -> Iterator[tuple[str, dict[str, Rows]]]:
    """Every group that holds arrays, itself included, with its arrays."""
    import h5py

    items = {key: group[key] for key in group}
    arrays = {
        key: _Text(item) if h5py.check_string_dtype(item.dtype) else item
        for key, item in items.items()
        if isinstance(item, h5py.Dataset)
    }
    if any(len(array.shape) for array in arrays.values()):
        declared = {
            key: str(items[key].attrs["units"])
            for key in arrays
            if "units" in items[key].attrs
        }
        if declared or "units" not in arrays:
            arrays["units"] = np.array(json.dumps(declared))
        if {"atNUM", "atXYZ"} <= set(arrays):  # one geometry of QM7-X
            arrays = {
                key: array if key in ("units", "atNUM") else _one_row(key, array)
                for key, array in arrays.items()
            }
        yield group.name, arrays
    for item in items.values():
        if isinstance(item, h5py.Group):
            yield from _tables(item)


def _one_row(key: str, array: Rows) -> Array:
    """An array of a single molecule with a first axis of molecules."""
    values = np.asarray(array[()])
    return values if key == "ePBE0+MBD" else values[None]


class _Text:
    """A dataset of strings, read as NumPy text."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype = np.dtype("U")

    def __getitem__(self, rows: Any) -> Array:
        return np.asarray(self._dataset.asstr()[rows], dtype=str)


_SPICE = Definition(
    keys={
        "positions": "conformations",
        "energy": "dft_total_energy",
        "gradient": "dft_total_gradient",
        "dipole": "scf_dipole",
        "charges": "mbis_charges",
    },
    units={
        "conformations": "bohr",
        "dft_total_energy": "hartree",
        "dft_total_gradient": "hartree/bohr",
        "scf_dipole": "e*bohr",
    },
    level="wB97M-D3BJ/def2-TZVPPD",
    complete=True,
    facts=("charge from the formal charges of the mapped SMILES, as SPICE has them",),
)
_SINGLETS = "charge 0 and multiplicity 1, ANI sets hold neutral singlets only"
_ANI_LEVELS = {
    "wb97x_dz": "wB97X/6-31G*",
    "wb97x_tz": "wB97X/def2-TZVPP",
    "ccsd(t)_cbs": "CCSD(T)*/CBS",
    "hf_dz": "HF/cc-pVDZ",
    "hf_tz": "HF/cc-pVTZ",
    "hf_qz": "HF/cc-pVQZ",
}
_TORCHANI = Definition(
    keys={"energy": "energies"},
    complete=True,
    units={
        "coordinates": "angstrom",
        "energies": "hartree",
        "forces": "hartree/angstrom",
    },
    facts=(_SINGLETS,),
)
_QM7X = Definition(
    keys={
        "energy": "ePBE0+MBD",
        "forces": "totFOR",
        "dipole": "vDIP",
        "charges": "hCHG",
    },
    units={
        "atXYZ": "angstrom",
        "ePBE0+MBD": "eV",
        "totFOR": "eV/angstrom",
        "vDIP": "e*angstrom",
    },
    level="PBE0+MBD",
    facts=("charge 0 and multiplicity 1, QM7-X holds neutral singlets only",),
    complete=True,
)
_AIMNET = Definition(
    defaults={
        "coord": "angstrom",
        "energy": "eV",
        "forces": "eV/angstrom",
        "dipole": "e*angstrom",
    }
)
_BRACKET = re.compile(
    r"\[\d*(?P<symbol>[A-Za-z][a-z]?)[^\]:+-]*(?P<charge>\++\d*|-+\d*)?"
    r"(?::(?P<number>\d+))?\]"
)


def _recognise(arrays: Mapping[str, Rows], options: ReadOptions) -> Definition:
    """What is known of a group by the keys it holds; nothing of an unknown layout."""
    keys = set(arrays)
    if {"atomic_numbers", "conformations", "dft_total_energy"} <= keys:
        return _SPICE
    energies = {f"{level}.energy" for level in _ANI_LEVELS}
    if {"atomic_numbers", "coordinates"} <= keys and energies & keys:
        return _ani(options)
    if {"atNUM", "atXYZ", "ePBE0+MBD"} <= keys:
        return _QM7X
    if {"species", "coordinates", "energies"} <= keys:
        return _TORCHANI
    return _AIMNET if {"coord", "numbers", "energy"} <= keys else Definition()


def _known_state(
    arrays: Mapping[str, Rows], definition: Definition, count: int
) -> dict[str, Rows]:
    """Charges and multiplicities that a layout defines without storing them."""
    if definition is _SPICE and "smiles" in arrays:
        smiles = plain_text(np.asarray(arrays["smiles"][()])).reshape(-1)[0]
        numbers = np.asarray(arrays["atomic_numbers"][()])
        return {"total_charge": np.full(count, formal_charge(str(smiles), numbers))}
    if _SINGLETS in definition.facts or definition is _QM7X:
        return {
            "total_charge": np.zeros(count, int),
            "spin_multiplicity": np.ones(count, int),
        }
    return {}


def formal_charge(smiles: str, numbers: Rows) -> int:
    """Sum of the formal charges of a mapped SMILES, checked against its atoms.

    Args:
        smiles: With every atom in brackets and its number, from 1, in the molecule:
            ``[H:2][O:1][H:3]``.
        numbers: [atoms] atomic numbers.

    Raises:
        ValueError: The SMILES does not map exactly these atoms.
    """
    mapped, total = {}, 0
    for atom in _BRACKET.finditer(smiles):
        symbol = atom["symbol"].capitalize()
        symbol = symbol if symbol in NUMBER_OF else symbol[0]
        mapped[int(atom["number"] or 0)] = NUMBER_OF.get(symbol, 0)
        total += _charge(atom["charge"] or "")
    wanted = dict(enumerate(np.asarray(numbers[()]).tolist(), start=1))
    if mapped != wanted:
        raise ValueError(
            f"the SMILES {smiles} does not map the atomic numbers "
            f"{list(wanted.values())} one to one, so the charge is unknown; correct it "
            "or name the charge with --key total_charge=NAME"
        )
    return total


def _charge(text: str) -> int:
    """A formal charge as SMILES has it: +, ++, -2."""
    if not text:
        return 0
    sign = 1 if text[0] == "+" else -1
    digits = text.lstrip("+-")
    return sign * (int(digits) if digits else len(text))


def _ani(options: ReadOptions) -> Definition:
    """ANI-1x at one level: the one of the energies the user asks for, else DZ."""
    energy = options.keys.get("energy", "wb97x_dz.energy")
    prefix = energy.rpartition(".")[0]
    units = {"coordinates": "angstrom"}
    for level in _ANI_LEVELS:
        units[f"{level}.energy"] = "hartree"
        units[f"{level}.forces"] = "hartree/angstrom"
    return Definition(
        keys={"energy": energy, "forces": f"{prefix}.forces"},
        units=units,
        level=_ANI_LEVELS.get(prefix, prefix),
        facts=(
            _SINGLETS,
            "NaN means not computed; where neither energy nor forces were, left out",
        ),
        nan_is_missing=True,
        complete=True,
    )
