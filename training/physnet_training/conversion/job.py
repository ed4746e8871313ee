"""A conversion as it was asked for, and the hidden folder in which it is made."""

import difflib
import json
import logging
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from physnet_ase import __version__
from physnet_training.conversion.check import Policy
from physnet_training.conversion.report import SourceReport, Taken
from physnet_training.packed.files import locked, write_json
from physnet_training.sources.keys import ReadOptions, sought

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


def _describe(job: Job) -> dict[str, Any]:
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


def _accept_corrections(found: dict[str, Any], wanted: dict[str, Any]) -> list[int]:
    """Overlook what people change after an error; answer which sources are others now.

    A piece without an invalid molecule suits every policy.
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


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
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
    return {"path": str(path.resolve()), "bytes": sizes, "modified_ns": times}


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


_log = logging.getLogger(__name__)

DONE = "done.json"
"""In the folder of a source that is read to its end: its report and its pieces."""
MAX_SHARDS = 100_000
"""Numbers have five digits."""
MIN_KEPT = 10_000
"""After an error fewer finished molecules than these, and no whole shard, are not worth
a folder that the user has to know about."""


class Piece(NamedTuple):
    """A finished packed directory with molecules of one source."""

    folder: Path
    source: int
    taken: Taken


@dataclass
class PlannedShard:
    """Pieces that make one shard."""

    name: str
    pieces: list[Piece] = field(default_factory=list)


class Workspace:
    """The hidden folder ``.NAME.partial`` next to the target.

    ``source-00000/piece-00000/`` and so on are finished packed directories,
    ``source-00000/done.json`` says that a source is read to its end, ``assembled/``
    holds shards. Which pieces make which shard follows from the ``done.json`` alone.

    Args:
        job: The conversion.

    Attributes:
        path: The folder.
        num_old: Shards of the root before anything was appended.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.path = job.target.parent / f".{job.target.name}.partial"
        self.num_old = self._count_shards() if job.append else 0

    @contextmanager
    def open(self) -> Iterator["Workspace"]:
        """Claim the folder; leave nothing behind but pieces that are worth keeping.

        Raises:
            ValueError: It holds the finished pieces of another command, or another
                process is working in it.
        """
        target = self.job.target
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / "lock", f"converting to {target}"):
            if target.exists() and not self.job.append:
                shutil.rmtree(self.path)
                raise ValueError(
                    f"another process has just finished a conversion to {target}; look "
                    "at it"
                )
            self._claim()
            try:
                yield self
            except (Exception, KeyboardInterrupt):
                self._leave()
                raise
            shutil.rmtree(self.path)

    @property
    def assembled(self) -> Path:
        """The folder in which the shards are put together."""
        return self.path / "assembled"

    def source(self, index: int) -> Path:
        """The folder of a source."""
        return self.path / f"source-{index:05d}"

    def reports(self) -> list[SourceReport]:
        """What was taken from each source; all are read to their ends."""
        return [SourceReport(**done["report"]) for done in self._done()]

    def shards(self) -> list[PlannedShard]:
        """Which pieces make which shard: in their order, as many as fit."""
        shards: list[PlannedShard] = []
        room = 0
        for index, done in enumerate(self._done()):
            for name, taken in done["pieces"].items():
                piece = Piece(self.source(index) / name, index, Taken(**taken))
                if piece.taken.num_molecules > room:
                    number = self.num_old + len(shards)
                    shards.append(PlannedShard(f"shard-{number:05d}"))
                    room = self.job.piece_molecules
                room -= piece.taken.num_molecules
                shards[-1].pieces.append(piece)
        if self.num_old + len(shards) > MAX_SHARDS:
            raise ValueError(
                f"{self.num_old + len(shards)} shards are more than {MAX_SHARDS}; say "
                "a larger --shard-molecules"
            )
        return shards

    def place(self, shard: PlannedShard) -> Path:
        """Where a shard stands: still hidden, or under its name already."""
        published = self.job.target / shard.name
        if self.job.append and published.exists():
            return published
        return self.assembled / shard.name

    def check_root(self) -> None:
        """The root must be as an interrupted conversion left it.

        Raises:
            ValueError: Shards were added or removed meanwhile.
        """
        if not self.job.append:
            return
        target = self.job.target
        added = sum((target / shard.name).exists() for shard in self.shards())
        others = self._count_shards() - added
        if others != self.num_old:
            raise ValueError(
                f"{target} had {self.num_old} shards when this conversion began, now "
                f"it has {others} others; remove {self.path} to start anew"
            )

    def _count_shards(self) -> int:
        return len(list(self.job.target.glob("shard-*")))

    def _all_done(self) -> bool:
        sources = range(len(self.job.sources))
        return all((self.source(index) / DONE).exists() for index in sources)

    def _done(self) -> list[dict[str, Any]]:
        files = [self.source(index) / DONE for index in range(len(self.job.sources))]
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]

    def _claim(self) -> None:
        """Take up what an earlier run of this command left, or begin with nothing."""
        wanted, file = _describe(self.job), self.path / "job.json"
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
            self.num_old = found.pop("num_old")
            if self._is_usable(len(found["sources"])):
                self._refuse_others(found, wanted)
            else:
                self.num_old = self._count_shards() if self.job.append else 0
                for folder in self.path.glob("*/"):
                    _remove(folder)
        for unfinished in (*self.assembled.glob(".*"), *self.path.glob(".*")):
            shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()
        write_json(file, {**wanted, "num_old": self.num_old})

    def _is_usable(self, num_sources: int) -> bool:
        """Whether there is work of an earlier run that can be used."""
        if num_sources != len(self.job.sources) or not self._all_done():
            return any(self.path.glob("source-*/piece-*/manifest.json"))
        # Else its shards were published, and removed since.
        return all(
            self.place(shard).exists() or all(p.folder.exists() for p in shard.pieces)
            for shard in self.shards()
        )

    def _refuse_others(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Only the command that made the pieces may use them."""
        begun = self.assembled.exists()
        changed = [] if begun else _accept_corrections(found, wanted)
        different = _differences(found, wanted)
        if different:
            raise ValueError(
                f"{self.path} holds the unfinished conversion of another command to "
                f"{self.job.target}: {'; '.join(different)}. Run that command again to "
                f"finish it, or remove {self.path} to start anew"
            )
        for index in changed:
            _remove(self.source(index))

    def _leave(self) -> None:
        """After an error: keep what is worth it, and say so."""
        finished = sum(
            json.loads(manifest.read_text(encoding="utf-8"))["num_molecules"]
            for manifest in self.path.glob("*/*/manifest.json")
        )
        # What was appended already must not be appended again by the next attempt.
        publishing = self.job.append and self._all_done()
        if finished < min(self.job.piece_molecules, MIN_KEPT) and not publishing:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        _log.warning(
            "%d molecules are finished and stay in %s: the same command goes on "
            "behind them; remove the folder to start anew",
            finished,
            self.path,
        )


def _remove(folder: Path) -> None:
    """Remove a folder once the process of a killed command has left it."""
    if folder.exists():
        with locked(folder / "lock", f"writing to {folder}"):
            shutil.rmtree(folder)
