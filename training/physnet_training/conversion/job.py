"""A conversion as it was asked for, from Python, a TOML file and the command line."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from physnet_ase import __version__
from physnet_training.conversion.check import Policy
from physnet_training.sources.keys import sought
from physnet_training.sources.options import ReadOptions

SHARD_MOLECULES = 1_000_000
"""Most molecules of a shard, unless the user says otherwise."""
READ_OPTIONS = tuple(f.name for f in fields(ReadOptions) if f.name != "first_row")
"""What can be said of a source."""
JOB_OPTIONS = ("on_invalid", "shard_molecules", "workers")
"""What can be said of a conversion as a whole."""
_MERGED = ("keys", "where")  # tables: entries of both places hold, as of ignore
_STAMP = ("bytes", "modified_ns")  # of a source


@dataclass(frozen=True)
class Source:
    """A file or directory to convert, and what the user says about it."""

    path: Path
    options: ReadOptions


@dataclass(frozen=True)
class Job:
    """A conversion.

    Attributes:
        sources: In the order of the dataset.
        target: The directory to make, or to append to.
        shard_molecules: Most molecules per shard; None: shards only where there are
            more than ``SHARD_MOLECULES``.
        on_invalid: What to do with invalid molecules.
        append: Add shards to the existing root ``target``.
        workers: Most processes; None: as many as there are processors, if that pays.
    """

    sources: tuple[Source, ...]
    target: Path
    shard_molecules: int | None = None
    on_invalid: Policy = "error"
    append: bool = False
    workers: int | None = None

    @property
    def piece_molecules(self) -> int:
        """Most molecules of a piece, and of a shard."""
        return self.shard_molecules or SHARD_MOLECULES


def read_options_from(options: Mapping[str, Any]) -> ReadOptions:
    """Check what the user says about a source.

    Raises:
        TypeError: An unknown option.
        ValueError: An unknown quantity in ``keys``, or a wrong value.
    """
    unknown = sorted(set(options) - set(READ_OPTIONS))
    if unknown:
        raise TypeError(
            f"unknown options {unknown}; known: {', '.join(sorted(READ_OPTIONS))}"
        )
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("assume_multiplicity") not in (None, "lowest"):
        raise ValueError(
            "assume_multiplicity must be 'lowest' or left out, got "
            f"{given['assume_multiplicity']!r}"
        )
    try:
        chosen = TypeAdapter(ReadOptions).validate_python(given)
    except ValidationError as error:
        places = [
            ".".join(map(str, p["loc"])) + f": {p['msg']}" for p in error.errors()
        ]
        raise ValueError("; ".join(places)) from error
    known = (*sought(), "level")
    wrong = sorted(set(chosen.keys) - set(known))
    if wrong:
        near = difflib.get_close_matches(wrong[0], known, n=3)
        raise ValueError(
            f"keys: unknown quantities {wrong}; "
            f"{'similar' if near else 'known'}: {', '.join(near or known)}"
        )
    return chosen


def make_job(
    sources: Sequence[Path],
    target: Path,
    given: Mapping[str, Any],
    *,
    file: Path | None = None,
    append: bool = False,
) -> Job:
    """A conversion as a file of options and the command line describe it.

    A file has the names in ``READ_OPTIONS`` and ``JOB_OPTIONS`` as keys, and any number
    of tables ``[[source]]`` with a pattern ``match`` and options for the sources whose
    path or name matches; what comes later wins, the command line last.

    Args:
        sources: In the order of the dataset.
        target: The directory to make, or to append to.
        given: What the command line says; None and empty tables are not said.
        file: A TOML file of options.
        append: Add shards to the target.

    Raises:
        ValueError: The file is damaged, a key is unknown, a value is wrong, or a
            pattern matches no source.
    """
    content = {} if file is None else _load(file)
    sections = content.pop("source", [])
    said = {name: value for name, value in given.items() if value not in (None, {}, ())}
    made = []
    for path in sources:
        options: dict[str, Any] = {}
        matching = [s for s in sections if _matches(path, s["match"])]
        for layer in (content, *matching, said):
            for name in set(READ_OPTIONS) & set(layer):
                merged = name in _MERGED and isinstance(layer[name], dict)
                old = options.get(name, {}) if merged else {}
                options[name] = {**old, **layer[name]} if merged else layer[name]
        ignored = [layer.get("ignore", ()) for layer in (content, *matching, said)]
        options["ignore"] = tuple(dict.fromkeys(key for one in ignored for key in one))
        try:
            made.append(Source(path, read_options_from(options)))
        except ValueError as error:
            raise ValueError(f"{file or 'options'}: {error}") from error
    for section in sections:
        if not any(_matches(path, section["match"]) for path in sources):
            raise ValueError(
                f"{file}: [[source]] match = {section['match']!r} matches none of the "
                f"sources {', '.join(map(str, sources))}"
            )
    whole = {name: content[name] for name in JOB_OPTIONS if name in content}
    whole |= {name: said[name] for name in JOB_OPTIONS if name in said}
    return Job(tuple(made), target, append=append, **whole)


def describe(job: Job) -> dict[str, Any]:
    """Everything that decides what the pieces hold; JSON-serialisable."""
    return {
        "package_version": __version__,
        "shard_molecules": job.shard_molecules,
        "on_invalid": job.on_invalid,
        "append": job.append,
        "sources": [
            {
                **_stamp(source.path),
                **asdict(source.options),
                "ignore": list(source.options.ignore),
            }
            for source in job.sources
        ],
    }


def accept_corrections(found: dict[str, Any], wanted: dict[str, Any]) -> list[int]:
    """Overlook what people change after an error, as far as finished pieces allow it.

    A piece without an invalid molecule suits every policy.

    Returns:
        The sources that were changed themselves: their pieces are worth nothing.
    """
    if found["on_invalid"] == "error":
        found["on_invalid"] = wanted["on_invalid"]
    changed = []
    pairs = zip(found["sources"], wanted["sources"], strict=False)
    for index, (old, new) in enumerate(pairs):
        old["allow_missing"] |= new["allow_missing"]
        if any(old[key] != new[key] for key in _STAMP):
            changed.append(index)
            old |= {key: new[key] for key in _STAMP}
    return changed


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What differs between two descriptions, in words."""
    paths = [[source["path"] for source in d["sources"]] for d in (found, wanted)]
    if paths[0] != paths[1]:
        return [f"its sources were {', '.join(paths[0])}"]
    lines = [
        f"{key} was {found[key]!r}, is {value!r}"
        for key, value in wanted.items()
        if key != "sources" and found[key] != value
    ]
    for old, new in zip(found["sources"], wanted["sources"], strict=True):
        lines += [
            f"{key} of {new['path']} was {old.get(key)!r}, is {value!r}"
            for key, value in new.items()
            if old.get(key) != value
        ]
    return lines


def _stamp(path: Path) -> dict[str, Any]:
    """What tells whether a source is still the same, without reading it."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [file.stat() for file in files if file.is_file()]
    sizes = sum(stat.st_size for stat in stats)
    times = max((stat.st_mtime_ns for stat in stats), default=0)
    return {
        "path": str(path.resolve()),
        **dict(zip(_STAMP, (sizes, times), strict=True)),
    }


def _load(file: Path) -> dict[str, Any]:
    """The content of a file of options, its keys checked."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid TOML: {error}") from error
    _check_keys(file, content, {*READ_OPTIONS, *JOB_OPTIONS, "source"})
    for name in ("shard_molecules", "workers"):
        if not isinstance(content.get(name, 1), int):
            raise ValueError(
                f"{file}: {name} must be a whole number, got {content[name]!r}"
            )
    sections = content.get("source", [])
    if not isinstance(sections, list):
        raise ValueError(f"{file}: write [[source]] with two brackets on each side")
    for section in sections:
        _check_keys(file, section, {*READ_OPTIONS, "match"})
        if not isinstance(section.get("match"), str):
            raise ValueError(
                f"{file}: each [[source]] needs match = 'PATTERN', such as '*.xyz'"
            )
    return content


def _check_keys(file: Path, table: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise ValueError(
            f"{file}: unknown keys {', '.join(unknown)}; known: "
            f"{', '.join(sorted(known))}"
        )


def _matches(path: Path, pattern: str) -> bool:
    return fnmatch(str(path), pattern) or fnmatch(path.name, pattern)
