"""Options of a conversion from a TOML file, and from the command line on top."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from physnet_training.conversion.job import Job, Source
from physnet_training.sources.molecules import ReadOptions
from physnet_training.sources.naming import ALIASES

READ_OPTIONS = tuple(f.name for f in fields(ReadOptions) if f.name != "first_row")
"""What can be said of a source."""
JOB_OPTIONS = ("on_invalid", "shard_molecules", "workers")
"""What can be said of a conversion as a whole."""
_MERGED = ("keys", "where")  # tables: entries of both places hold


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
        lines = [f"{_place(p['loc'])}: {p['msg']}" for p in error.errors()]
        raise ValueError("; ".join(lines)) from error
    wrong = sorted(set(chosen.keys) - set(ALIASES))
    if wrong:
        near = difflib.get_close_matches(wrong[0], ALIASES, n=3)
        raise ValueError(
            f"keys: unknown quantities {wrong}; "
            f"{'similar' if near else 'known'}: {', '.join(near or ALIASES)}"
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
    said = {name: value for name, value in given.items() if value not in (None, {})}
    made = []
    for path in sources:
        options: dict[str, Any] = {}
        matching = [s for s in sections if _matches(path, s["match"])]
        for layer in (content, *matching, said):
            for name in set(READ_OPTIONS) & set(layer):
                merged = name in _MERGED and isinstance(layer[name], dict)
                old = options.get(name, {}) if merged else {}
                options[name] = {**old, **layer[name]} if merged else layer[name]
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


def _load(file: Path) -> dict[str, Any]:
    """The content of a file of options, its keys checked."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
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


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)
