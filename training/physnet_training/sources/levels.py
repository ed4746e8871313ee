"""Levels of theory: which keys say them, and how several become one name."""

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.quantities import QUANTITIES
from physnet_training.sources.options import ReadOptions

Array = NDArray[Any]
_WHOLE = ("level_of_theory", "theory")
_METHODS = ("method", "functional")
_BASES = ("basis", "basis_set")


def level_columns(available: Collection[Any], options: ReadOptions) -> list[str]:
    """Keys that say the level of theory, without those that ``--where`` fixes.

    Where there is a solvent model, the word of a solvent says nothing more.

    Raises:
        ValueError: The key that was chosen is not there.
    """
    chosen = options.keys.get("level")
    if chosen is not None:
        if chosen not in available:
            raise ValueError(f"there is no key {chosen!r}, asked for as level")
        return [chosen]
    columns = [
        key
        for key in available
        if isinstance(key, str) and key.lower() in QUANTITIES["level"].aliases
    ]
    if any(key.lower() == "solvent_model" for key in columns):
        columns = [key for key in columns if key.lower() != "solvent"]
    return [key for key in columns if key not in options.where]


def level_of(
    columns: Mapping[str, Any], otherwise: str, options: ReadOptions
) -> str | Array:
    """The level of theory: one word, or one for each molecule where columns differ.

    Args:
        columns: Key of ``level_columns`` -> word, or array of words.
        otherwise: What the format or the key of the energy says.
        options: ``level`` names what the file does not say.

    Raises:
        ValueError: ``--level`` names one level, but the columns hold several.
    """
    # One row per molecule; a file of one level, the usual case, is one row.
    tables = {key: np.atleast_1d(np.asarray(words)) for key, words in columns.items()}
    for words in tables.values():
        if options.level and len(words) > 1 and (words != words[0]).any():
            refuse_one_level(tables, options)
    if options.level:
        return options.level
    tables = {k: w[:1] if (w == w[0]).all() else w for k, w in tables.items()}
    length = max((len(words) for words in tables.values()), default=1)
    rows = []
    for row in range(length):
        said = {
            key: str(words[min(row, len(words) - 1)]) for key, words in tables.items()
        }
        rows.append(name_of(said, otherwise))
    return rows[0] if length == 1 else np.array(rows)


def refuse_one_level(columns: Mapping[str, Any], options: ReadOptions) -> None:
    """Stop: one level was asked for, and there are several.

    Raises:
        ValueError: Always.
    """
    shown = "; ".join(
        f"{key} is {', '.join(sorted(set(map(str, words)))[:4])}"
        for key, words in columns.items()
    )
    key = next(iter(columns))
    raise ValueError(
        f"--level {options.level!r} names one level of theory for all, but {shown}; "
        f"keep one with --where {key}=VALUE, or leave --level out to store each one's "
        "own"
    )


def name_of(said: Mapping[str, str], otherwise: str) -> str:
    """``METHOD/BASIS, SOLVENT`` of what one molecule's columns say."""
    return _name(tuple(said.items()), otherwise)


@lru_cache(maxsize=1024)
def _name(said: tuple[tuple[str, str], ...], otherwise: str) -> str:
    words = {key.lower(): word for key, word in said if word}

    def first(keys: tuple[str, ...]) -> str:
        return next((words.pop(key) for key in keys if key in words), "")

    whole, method, basis = first(_WHOLE), first(_METHODS), first(_BASES)
    if not whole:
        method = method or otherwise
    both = "/".join(word for word in (method, basis) if word)
    parts = dict.fromkeys([whole, both, *words.values()])
    return ", ".join(part for part in parts if part)
