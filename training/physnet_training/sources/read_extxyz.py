"""Molecules out of XYZ files, extended or not, packed or not, by way of ASE's reader.

What ASE would drop or misread is looked at first: empty lines between frames, columns
without a name, comment lines that are no ``key=value`` (ensembles of ORCA, CREST and
xtb), raw QM9 files, labels in place of element symbols, other encodings than UTF-8.
"""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple

from ase import Atoms
from ase.data import chemical_symbols
from ase.io.extxyz import read_xyz

from physnet_ase.molecules import Molecules
from physnet_training.sources.arrays import element_of
from physnet_training.sources.keys import Reading, ReadOptions
from physnet_training.sources.read_ase import FrameReader, join_frames

_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    EOFError,
    TypeError,
    zlib.error,
    lzma.LZMAError,
)
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""Endings of packed text that is read as it stands."""
_SYMBOLS = {symbol: symbol for symbol in chemical_symbols[1:]}
_NUMBER = r"(-\d+\.\d+(?:[eE][-+]?\d+)?)"
_COMMENTS = {
    "a number alone, as CREST writes it": re.compile(rf"{_NUMBER}(?:\s+!.*)?"),
    "'E' and a number, as ORCA writes it": re.compile(
        rf"Coordinates from .* E {_NUMBER}"
    ),
    "'energy:' and a number, as xtb writes it": re.compile(rf"energy: {_NUMBER}( .*)?"),
}
"""Comment lines with an energy in hartree."""
_COMMENT = "comment lines such as"
_QM9_LEVEL = "B3LYP/6-31G(2df,p)"
_QM9_ENERGY = 12  # place of U0 among the words of the comment line, "gdb" is 0
_PROPERTIES = re.compile(r"""properties\s*=\s*"?([^\s"]+)""", re.IGNORECASE)


def read_extxyz(
    path: Path, options: ReadOptions, reading: Reading
) -> Iterator[Molecules]:
    """Frames of an XYZ file, in batches.

    Raises:
        ValueError: The file is damaged, a key or a unit is missing, or a shape is
            wrong; the message names the frame, counted from 0.
    """
    return join_frames(_frames(path, options, reading))


def _frames(
    path: Path, options: ReadOptions, reading: Reading
) -> Iterator[Molecules | None]:
    reader, row = FrameReader(options, reading), -1
    with _opened(path) as file:
        lines = _Lines(file)
        while True:
            row += 1
            try:
                text = lines.frame()
                if text is None:
                    return
                if row < options.first_row:
                    continue
                atoms, facts = _parsed(text, reading)
            except _DAMAGE as error:
                raise ValueError(
                    f"{path} cannot be read at molecule {row} (0-based), line "
                    f"{lines.first}: {_reason(error)}; the file is truncated or no "
                    "extended XYZ"
                ) from error
            try:
                yield reader.read(atoms, row, facts)
            except ValueError as error:
                raise ValueError(
                    f"{path}: molecule {row} (0-based), line {lines.first}: {error}"
                ) from error


def _reason(error: Exception) -> str:
    """ASE answers an unknown symbol with the symbol alone."""
    if isinstance(error, KeyError) and error.args:
        return (
            f"{error.args[0]!r} is no element symbol; write the symbol of the element"
        )
    return str(error)


def _opened(path: Path) -> IO[str]:
    """The text of a file, unpacked and decoded by what its first bytes say."""
    packed = _unpacker(path)
    raw: Any = packed(path) if packed is not None else path.open("rb")
    buffered = io.BufferedReader(raw)
    try:
        head = buffered.peek(4)[:4]
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}; it is truncated or damaged"
        ) from error
    encoding = "utf-8-sig"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    return io.TextIOWrapper(buffered, encoding=encoding, errors=_LATIN)


def _unpacker(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".zst":
        for name in ("compression.zstd", "zstandard"):  # the first is Python 3.14's
            with suppress(ImportError):
                zstd = import_module(name)
                return lambda file: zstd.open(file, "rb")
        raise ValueError(
            f"{path}: reading .zst needs the package zstandard; install it, or unpack "
            "the file with zstd -d"
        )
    return {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(suffix)


def _as_latin(error: UnicodeError) -> tuple[str, int]:
    """Bytes that are no UTF-8 are taken as Latin-1, in which every byte is a letter."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


_LATIN = "physnet-latin-1"
codecs.register_error(_LATIN, _as_latin)


class _Text(NamedTuple):
    """Lines of one frame: number of atoms, comment, atoms, perhaps cell vectors."""

    comment: str
    atoms: list[str]
    vectors: list[str]

    def joined(self) -> str:
        """As one text."""
        head = f"{len(self.atoms)}\n{self.comment.rstrip()}\n"
        return "".join([head, *self.atoms, *self.vectors])


class _Lines:
    """Cuts a file into frames without seeking; ``first``: first line of the latest."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._ahead: str | None = None
        self._read = 0
        self.first = 1

    def frame(self) -> _Text | None:
        """The next frame, None at the end; empty lines before it mean nothing."""
        head = self._next()
        while head and not head.strip():
            head = self._next()
        self.first = self._read
        if not head:
            return None
        try:
            num_atoms = int(head)
        except ValueError as error:
            raise ValueError(
                f"a number of atoms was expected, got {head.strip()!r}"
            ) from error
        comment = self._next()
        atoms = [self._next() for _ in range(num_atoms)]
        if not (atoms or [comment])[-1]:
            raise ValueError(f"the file ends within {num_atoms} atoms")
        if _is_qm9(comment):
            for _ in range(3):  # frequencies, SMILES, InChI
                self._next()
        # ASE accepts cell vectors in lines of their own after the atoms.
        vectors = []
        while (ahead := self._next()).lstrip().startswith("VEC"):
            vectors.append(ahead)
        self._ahead = ahead
        return _Text(comment, atoms, vectors)

    def _next(self) -> str:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            return ahead
        line = self._file.readline()
        self._read += 1
        return line


def _parsed(text: _Text, reading: Reading) -> tuple[Atoms, tuple[str, ...]]:
    """A frame as ASE reads it, and what had to be assumed before ASE could."""
    if _is_qm9(text.comment):
        return _qm9(text), (_QM9_FACT,)
    facts: tuple[str, ...] = ()
    if "=" not in text.comment:
        text, facts = _plain_comment(text, reading)
    properties = _PROPERTIES.search(text.comment)
    columns = properties[1].split(":") if properties else ["species", "S", "1"]
    _check_columns(text, columns, named=properties is not None)
    try:
        atoms: Atoms = next(read_xyz(io.StringIO(text.joined()), 0))
    except KeyError:
        text, renamed = _with_elements(text, columns)
        atoms = next(read_xyz(io.StringIO(text.joined()), 0))
        facts = (*facts, renamed)
    return atoms, facts


def _plain_comment(text: _Text, reading: Reading) -> tuple[_Text, tuple[str, ...]]:
    """A comment of words: only an energy in a known form is taken from it."""
    comment = " ".join(text.comment.split())
    for form, pattern in _COMMENTS.items():
        found = pattern.fullmatch(comment)
        if found:
            said = _Text(f"energy_hartree={found[1]}", text.atoms, text.vectors)
            return said, (f"energy in hartree from the comment line: {form}",)
    if comment and not any(key.startswith(_COMMENT) for key in reading.unused):
        reading.unused.append(f"{_COMMENT} {comment[:60]!r}")
    return _Text("", text.atoms, text.vectors), ()


def _check_columns(text: _Text, columns: list[str], *, named: bool) -> None:
    """As many columns as have names; ASE would drop the others."""
    if not text.atoms:
        return
    try:
        expected = sum(map(int, columns[2::3])) if named else 4
    except ValueError:
        return  # ASE says what is wrong
    found = len(text.atoms[0].split())
    if found > expected:
        raise ValueError(
            f"the atoms have {found} columns, of which "
            f"{'Properties names' if named else 'plain XYZ has'} {expected}; name all "
            "in Properties=species:S:1:pos:R:3:…, or remove the others"
        )


def _with_elements(text: _Text, columns: list[str]) -> tuple[_Text, str]:
    """Atoms with symbols in place of labels and isotopes, and what was done."""
    place = 0
    for name, count in zip(columns[::3], columns[2::3], strict=False):
        if name.lower() == "species":
            break
        place += int(count)
    atoms, renamed = [], {}
    for line in text.atoms:
        words = line.split()
        symbol = words[place].capitalize()
        if symbol not in _SYMBOLS:
            words[place] = renamed[words[place]] = element_of(words[place])
        atoms.append(" ".join(words) + "\n")
    shown = ", ".join(f"{label} as {symbol}" for label, symbol in renamed.items())
    return _Text(text.comment, atoms, text.vectors), f"atoms named {shown} taken"


_QM9_FACT = "raw QM9: U0 in hartree, Mulliken charges, neutral singlets, " + _QM9_LEVEL


def _is_qm9(comment: str) -> bool:
    if not comment.lstrip().startswith("gdb"):
        return False
    words = comment.split()
    return len(words) == 17 and words[0] == "gdb" and words[1].isdigit()


def _qm9(text: _Text) -> Atoms:
    """A file of the QM9 archive (Ramakrishnan et al., Sci. Data 1, 140022 (2014))."""
    rows = [line.replace("*^", "e").split() for line in text.atoms]
    words = text.comment.replace("*^", "e").split()
    atoms = Atoms(
        [row[0] for row in rows],
        positions=[[float(number) for number in row[1:4]] for row in rows],
        info={
            "charge": 0,
            "multiplicity": 1,
            "energy_hartree": float(words[_QM9_ENERGY]),
            "level_of_theory": _QM9_LEVEL,
            "name": " ".join(words[:2]),
        },
    )
    atoms.set_array("charges", [float(row[4]) for row in rows], float, ())
    return atoms
