"""Structures of the command line: reading any ASE format or a name, writing back."""

import codecs
import os
from collections.abc import Sequence
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.build import molecule
from ase.collections import g2
from ase.io.formats import filetype, ioformats

from physnet_ase.commands.smiles import (
    SMILES_PREFIX,
    conformer,
    numbers_and_state,
)
from physnet_ase.state import state_keys
from physnet_ase.stated_charges import stated_charge


def read_structure(text: str, charge: int | None, multiplicity: int | None) -> Atoms:
    """Return the structure ``text`` names, in the state the options ask for.

    Args:
        text: A file (its last frame; ``FILE@3`` picks another), else the name of a
            molecule in ``ase.build.molecule``, or ``smiles:CCO``.
        charge: Total charge in e; overrides what the file says.
        multiplicity: 2S+1; overrides what the file says.

    Raises:
        ValueError: No such file or molecule, or a file that ASE cannot read.
        ImportError: SMILES, and RDKit is not installed.
    """
    path = Path(text.rpartition("@")[0] or text)
    if Path(text).exists() or path.exists():
        frames = read_frames(text)
        if len(frames) > 1:
            raise ValueError(f"{text} holds {len(frames)} structures; pick one: FILE@0")
        atoms = frames[0]
    elif text.startswith(SMILES_PREFIX):
        smiles = text.removeprefix(SMILES_PREFIX)
        atoms = conformer(smiles)
        state = numbers_and_state(smiles)[1]
        atoms.info["charge"] = state.charge
        atoms.info["spin_multiplicity"] = state.multiplicity
    elif text in g2.names:
        atoms = molecule(text)
        if charge is not None or multiplicity is not None:
            # They describe the neutral ground state, which is not asked for.
            atoms.set_initial_magnetic_moments(None)
    else:
        close = get_close_matches(text, g2.names, n=4)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ValueError(
            f"{text}: no such file, and ASE knows no molecule of this name{hint} "
            "(SMILES begin with smiles:, as in smiles:CCO)"
        )
    _set_state(atoms, charge, multiplicity)
    return atoms


def read_structures(
    text: str, charge: int | None, multiplicity: int | None
) -> list[Atoms]:
    """As :func:`read_structure`, but all frames of a file; ``FILE@3`` picks one.

    Raises:
        ValueError: No such file or molecule, or a file that ASE cannot read.
    """
    if not Path(text).exists():
        return [read_structure(text, charge, multiplicity)]
    frames = read_frames(text, every=True)
    for atoms in frames:
        _set_state(atoms, charge, multiplicity)
    return frames


def _set_state(atoms: Atoms, charge: int | None, multiplicity: int | None) -> None:
    """Put the state that is asked for in place of what a file says."""
    named = state_keys(atoms.info)
    if charge is not None:
        for key in named["charge"]:
            del atoms.info[key]
        atoms.info["charge"] = charge
    if multiplicity is not None:
        for key in named["multiplicity"] + named["unpaired"]:
            del atoms.info[key]
        atoms.info["spin_multiplicity"] = multiplicity


def read_frames(text: str, *, every: bool = False) -> list[Atoms]:
    """Structures of a file, with the charge that it states; what ASE drops is put back.

    Args:
        text: A file, or ``FILE@3`` and the like.
        every: All frames instead of the last one.

    Raises:
        ValueError: ASE cannot read it, or there are no structures.
    """
    whole = Path(text).exists()  # then an @ belongs to the name
    path = Path(text if whole else text.rpartition("@")[0])
    options: dict[str, Any] = {"index": ":"} if every else {}
    try:
        decoded = _decoded(path)
        if decoded is not None:
            found = ase.io.read(decoded, format="extxyz", **options)
        else:
            found = ase.io.read(text, do_not_split_by_at_sign=whole, **options)
    # ASE's readers raise anything at all on a damaged file.
    except Exception as error:
        raise ValueError(f"{text}: {_why_unreadable(path, error)}") from error
    frames = [found] if isinstance(found, Atoms) else list(found)
    if not frames:
        raise ValueError(f"{text} holds no structures")
    stated = stated_charge(path)
    for atoms in frames:
        if atoms.pbc.any() and not atoms.cell.array.any():
            atoms.pbc = False  # a lattice of zeros is a way to say "not periodic"
        named = state_keys(atoms.info)
        for key, value in stated.items():
            if not named["charge" if key == "charge" else "multiplicity"]:
                atoms.info[key] = value
    return frames


def _decoded(path: Path) -> StringIO | None:
    """An XYZ file that is not plain UTF-8 as text; None where ASE can read it."""
    if path.suffix.lower() not in (".xyz", ".extxyz"):
        return None
    content = path.read_bytes()
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            return StringIO(content.decode(encoding))
    try:
        content.decode()
    except UnicodeDecodeError:
        return StringIO(content.decode("latin-1"))
    return None


def _why_unreadable(path: Path, error: Exception) -> str:
    """What ASE's error means, and what to do."""
    if not path.stat().st_size:
        return "the file is empty"
    unknown = isinstance(error, KeyError) and str(error).strip("'\"")
    if unknown and len(unknown) <= 4:
        hint = (
            "; write deuterium as H and set its mass with atoms.set_masses"
            if unknown in ("D", "T")
            else "; atoms need element symbols, without numbers or labels"
        )
        return f"{unknown!r} is no element{hint}"
    return (
        f"ASE cannot read this file ({type(error).__name__}: {error}); name a format "
        "by the ending (.xyz, .mol, .pdb, .cif, …), or check the file with ase.io.read"
    )


def check_output(path: Path | None) -> None:
    """Raise before any work is done unless ``path`` can be written later.

    Raises:
        ValueError: The folder is missing, or the ending names no format of ASE.
    """
    if path is None:
        return
    check_folder(path)
    name = filetype(str(path), read=False)
    if name not in ioformats or not ioformats[name].can_write:
        raise ValueError(
            f"{path}: the ending names no format that ASE writes; use .xyz, .extxyz, "
            ".traj, .cif, …"
        )


def check_folder(path: Path | None) -> None:
    """Raise unless the folder of ``path`` exists.

    Raises:
        ValueError: It does not.
    """
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} does not exist")


def write_structures(path: Path, frames: Sequence[Atoms]) -> None:
    """Write structures with their results; nothing half-written stays at ``path``.

    Raises:
        ValueError: ASE cannot write these structures in this format.
    """
    partial = path.with_name(f".partial-{path.name}")
    name = filetype(str(path), read=False)
    try:
        ase.io.write(partial, list(frames), format="extxyz" if name == "xyz" else name)
        os.replace(partial, path)
    # As for the readers: each format raises its own.
    except Exception as error:
        raise ValueError(
            f"{path}: ASE cannot write this ({type(error).__name__}: {error})"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
