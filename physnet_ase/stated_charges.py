"""Charge and multiplicity that structure files state and ASE's readers leave out."""

import re
from pathlib import Path

from physnet_ase.state import ElectronicState

_OLD_CODES = {1: 3, 2: 2, 3: 1, 5: -1, 6: -2, 7: -3}
"""Charge codes of the atom block of an MDL molfile (4 is a doublet radical)."""
_WHOLE = 0.01
"""e; partial charges of a mol2 file are rounded, and sum to a whole number so."""


def stated_charge(path: Path) -> dict[str, int]:
    """Entries of ``atoms.info`` that a file's own charges make; empty without any.

    Reads MDL molfiles (``M  CHG``, ``M  RAD``, charge codes, V3000), Tripos mol2,
    Gaussian input (charge and multiplicity), and the charge column of PDB.

    Raises:
        ValueError: Charges are there and cannot be read; the file is named.
    """
    readers = {
        ".mol": _molfile,
        ".sdf": _molfile,
        ".sd": _molfile,
        ".mol2": _mol2,
        ".gjf": _gaussian,
        ".com": _gaussian,
        ".pdb": _pdb,
        ".ent": _pdb,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return reader(text)
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"{path}: its charges cannot be read ({error}); pass --charge and "
            "--multiplicity, or correct the file"
        ) from error


def _molfile(text: str) -> dict[str, int]:
    """The first molecule of an MDL file; ``M  CHG`` lines replace the atom block's."""
    lines = text.split("$$$$")[0].splitlines()
    charges = [line for line in lines if line.startswith("M  CHG")]
    radicals = [line for line in lines if line.startswith("M  RAD")]
    unpaired = 0
    for line in radicals:
        numbers = [int(word) for word in line.split()[3:]]
        unpaired += sum(value - 1 for value in numbers[1::2] if value > 1)
    if charges or radicals:
        values = [int(word) for line in charges for word in line.split()[3:][1::2]]
        return _entries(sum(values), unpaired if radicals else None)
    if any("V3000" in line for line in lines[:4]):
        atoms = [line for line in lines if line.startswith("M  V30")]
        found = [int(x) for line in atoms for x in re.findall(r"\bCHG=(-?\d+)", line)]
        return _entries(sum(found), None) if found else {}
    count = int(lines[3][:3])
    codes = [int(line[36:39] or 0) for line in lines[4 : 4 + count]]
    if not any(codes):
        return {}
    doublets = codes.count(4)
    return _entries(sum(_OLD_CODES.get(c, 0) for c in codes), doublets or None)


def _mol2(text: str) -> dict[str, int]:
    """Formal charge of a mol2 file: the sum of its atoms' partial charges."""
    _, _, rest = text.partition("@<TRIPOS>ATOM")
    rows = [line.split() for line in rest.split("@<TRIPOS>")[0].splitlines()]
    values = [float(row[8]) for row in rows if len(row) > 8]
    if not any(values):
        return {}
    total = sum(values)
    if abs(total - round(total)) > _WHOLE * max(1.0, len(values) ** 0.5):
        raise ValueError(f"partial charges sum to {total:.3f}, which is not whole")
    return _entries(round(total), None)


def _gaussian(text: str) -> dict[str, int]:
    """The line of charge and multiplicity behind route and title."""
    sections = re.split(r"\n\s*\n", text.replace("\r\n", "\n").strip())
    for section in sections[1:]:
        words = re.split(r"[\s,]+", section.strip().splitlines()[0].strip())
        if len(words) >= 2 and all(re.fullmatch(r"[+-]?\d+", w) for w in words[:2]):
            state = ElectronicState(int(words[0]), int(words[1]))
            return {"charge": state.charge, "spin_multiplicity": state.multiplicity}
    return {}


def _pdb(text: str) -> dict[str, int]:
    """Formal charges of the first model, columns 79 and 80: "1+", "2-"."""
    total, found = 0, False
    for line in text.split("\nENDMDL")[0].splitlines():
        if not line.startswith(("ATOM  ", "HETATM")) or not line[78:80].strip():
            continue
        column = line[78:80].strip()
        match = re.fullmatch(r"(\d)?([+-])|([+-])(\d)", column)
        if match is None:
            raise ValueError(f"charge {column!r} in columns 79 and 80")
        size, sign = match[1] or match[4] or "1", match[2] or match[3]
        total, found = total + int(sign + size), True
    return _entries(total, None) if found else {}


def _entries(charge: int, unpaired: int | None) -> dict[str, int]:
    entries = {"charge": charge}
    if unpaired is not None:
        entries["spin_multiplicity"] = unpaired + 1
    return entries
