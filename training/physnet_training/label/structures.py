"""What is labelled: structures from files, by name, or from SMILES."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from physnet_ase.commands.structure_files import read_structure
from physnet_ase.molecules import check_structure
from physnet_ase.state import ElectronicState, resolve_state
from physnet_training.label.smiles import (
    Array,
    Relative,
    numbers_and_state,
    read_smiles,
    relatives,
)

SMILES_PREFIX = "smiles:"
_CLOSEST = 0.1  # Å


@dataclass(frozen=True)
class Structure:
    """Something to label.

    Attributes:
        name: The group by which the molecule can be held out.
        source: Where it was read, for messages.
        numbers: [atoms] atomic numbers.
        atoms: Elements, positions and cell; neither constraints nor a calculator. None:
            the geometry is made from the SMILES when it is needed.
        smiles: Its bonds, where they are known.
        state: The state that it is labelled in, whatever is asked for.
        copy: Counts structures that are the same in all of this.
    """

    name: str
    source: str
    numbers: Array
    atoms: Atoms | None = None
    smiles: str = ""
    state: ElectronicState | None = None
    copy: int = 0

    @property
    def key(self) -> str:
        """Tells it from all others; depends on nothing but its own content."""
        digest = hashlib.sha256(f"{self.name}/{self.smiles}".encode())
        if self.atoms is not None:
            digest.update(str(self.atoms.pbc.tolist()).encode())
            for array in (self.numbers, self.atoms.positions, self.atoms.cell.array):
                digest.update(np.ascontiguousarray(array).tobytes())
        copy = f"#{self.copy}" if self.copy else ""
        return f"{self.name}~{digest.hexdigest()[:10]}{copy}"

    @property
    def is_atom(self) -> bool:
        """Whether it has one geometry only."""
        periodic = self.atoms is not None and self.atoms.pbc.any()
        return len(self.numbers) == 1 and not periodic

    def __str__(self) -> str:
        electrons = int(self.numbers.sum())
        return f"{self.source} ({self.name}, {electrons} electrons when neutral)"


def read_structures(
    sources: Sequence[str],
    *,
    own_states: bool = True,
    kinds: Sequence[Relative] = (),
    most: int | None = None,
) -> list[Structure]:
    """Every frame of files, the frames that ``FILE@3`` picks, molecules by name.

    A list of SMILES (``.smi``, ``.json``) and ``smiles:CCO`` give molecules whose
    geometry is made when it is needed. Ions among them are labelled in their own state
    only, each species once.

    Args:
        sources: Anything ASE reads, a name in ``ase.build.molecule``, or SMILES.
        own_states: Read the state of each, too.
        kinds: Add these radicals and ions of molecules given by SMILES.
        most: Most of each kind per molecule; None: all.

    Raises:
        ValueError: A file is missing or damaged, or a structure is unusable.
        ImportError: There are SMILES, and RDKit is not installed.
    """
    structures: list[Structure] = []
    species: set[str] = set()
    for source in sources:
        if _is_smiles(source):
            for structure in _from_smiles(source, own_states, kinds, most):
                if structure.smiles not in species:
                    species.add(structure.smiles)
                    structures.append(structure)
        else:
            structures += _from_file_or_name(source, own_states)
    counts: Counter[str] = Counter()
    distinct = []
    for structure in structures:
        key = f"{structure.key}{structure.state}"
        distinct.append(replace(structure, copy=counts[key]))
        counts[key] += 1
    return distinct


def check_geometry(atoms: Atoms) -> None:
    """Raise where no dataset could hold this geometry.

    Raises:
        ValueError: The message names atom and value.
    """
    check_structure(atoms)
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    distances[np.diag_indices(len(atoms))] = np.inf
    if distances.min() < _CLOSEST:
        first, second = np.unravel_index(distances.argmin(), distances.shape)
        raise ValueError(
            f"atom {first} is only {distances.min():.3f} Å away from atom {second}; "
            f"atoms must be at least {_CLOSEST} Å apart"
        )


def _is_smiles(source: str) -> bool:
    if source.startswith(SMILES_PREFIX):
        return True
    return source.endswith((".smi", ".json")) and Path(source).exists()


def _from_smiles(
    source: str, own_states: bool, kinds: Sequence[Relative], most: int | None
) -> Iterator[Structure]:
    prefixed = source.startswith(SMILES_PREFIX)
    names = [source.removeprefix(SMILES_PREFIX)] if prefixed else None
    for row, name in enumerate(names or read_smiles(Path(source))):
        try:
            yield smiles_structure(name, source, own_state=own_states)
            for _, relative in relatives(name, kinds, most=most):
                yield smiles_structure(relative, source, own_state=own_states)
        except ValueError as error:
            raise ValueError(f"{source}: molecule {row} (0-based): {error}") from error


def smiles_structure(
    smiles: str, source: str = "SMILES", *, own_state: bool = False
) -> Structure:
    """A structure whose geometry is made when it is needed.

    Args:
        smiles: Charge and unpaired electrons are read from it, too.
        source: For messages.
        own_state: Label it in its own state only; so are ions in any case.

    Raises:
        ValueError: It is no SMILES.
    """
    numbers, charge, multiplicity = numbers_and_state(smiles)
    own = ElectronicState(charge, multiplicity) if charge or own_state else None
    return Structure(smiles, source, numbers, smiles=smiles, state=own)


def _from_file_or_name(source: str, own_states: bool) -> Iterator[Structure]:
    known = Path(source).exists()
    frames = _frames(source) if known else [read_structure(source, None, None)]
    named = "" if known or "@" in source else source
    for row, atoms in enumerate(frames):
        try:
            check_geometry(atoms)
            state = resolve_state(atoms) if own_states else None
        except ValueError as error:
            raise ValueError(f"{source}: frame {row} (0-based): {error}") from error
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        name = named or str(atoms.info.get("name", "")) or atoms.get_chemical_formula()
        yield Structure(name, source, bare.numbers, bare, state=state)


def _frames(source: str) -> list[Atoms]:
    try:
        frames = ase.io.read(source, index=":")
    # ASE's readers raise anything at all on a damaged file.
    except Exception as error:
        raise ValueError(
            f"{source}: ASE cannot read this file ({type(error).__name__}: {error})"
        ) from error
    if not frames:
        raise ValueError(f"{source} holds no structures")
    return list(frames)
