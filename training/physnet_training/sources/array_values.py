"""What arrays and values of data files mean, whatever file they come from."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from ase.data import atomic_numbers as NUMBER_OF
from numpy.typing import NDArray

Array = NDArray[Any]


class Rows(Protocol):
    """An array on disk or in memory, of which rows can be taken."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As of a NumPy array."""

    @property
    def dtype(self) -> Any:
        """As of a NumPy array."""

    def __getitem__(self, rows: Any, /) -> Any:
        """A slice of rows, or everything for ``()``."""


class Shape(NamedTuple):
    """What is known of one array without reading it."""

    shape: tuple[int, ...]
    dtype: Any


def plain_text(values: Array) -> Array:
    """Bytes as text; anything else as it is."""
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values


def matches(values: Any, wanted: str) -> Array:
    """Where values are what the user asked for; numbers are compared as numbers."""
    array = plain_text(np.asarray(values))
    if array.dtype.kind in "iuf":
        try:
            return np.asarray(array == float(wanted))
        except ValueError:
            return np.zeros(array.shape, dtype=bool)
    return np.asarray(array.astype(str) == wanted)


def element_numbers(values: Array, key: str) -> Array:
    """Atomic numbers, also from element symbols.

    Raises:
        ValueError: A symbol is no element.
    """
    if values.dtype.kind not in "SU":
        return values
    symbols, inverse = np.unique(plain_text(values), return_inverse=True)
    for symbol in symbols:
        if symbol and symbol not in NUMBER_OF:
            raise ValueError(f"{key} holds {str(symbol)!r}, which is no element symbol")
    numbers = np.array([NUMBER_OF[s] if s else 0 for s in symbols.tolist()])
    return numbers[inverse].reshape(values.shape)


def declared_units(arrays: Mapping[str, Rows]) -> dict[str, str]:
    """The JSON object under the key ``units``, empty where there is none.

    Raises:
        ValueError: It is something else.
    """
    if "units" not in arrays:
        return {}
    text = arrays["units"][()]
    try:
        declared = json.loads(str(text))
        return {str(key): str(unit) for key, unit in declared.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"units must be a JSON object of key: unit, got {text!r}"
        ) from error


def voigt(tensor: Array) -> Array:
    """Symmetric tensors (n, 6), (n, 9) or (n, 3, 3) as xx yy zz yz xz xy. (n, 6)."""
    if tensor.shape[1:] == (6,):
        return tensor
    full = tensor.reshape(len(tensor), 3, 3)
    full = (full + full.swapaxes(1, 2)) / 2
    return full[:, (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]


def stress_from_virial(virial: Array, cells: Array) -> Array:
    """Stress -W/V in ASE's sign and order, from virials W in eV. (n, 6), eV/Å³.

    NaN where there is no cell, since the volume is not known there.
    """
    volume = np.abs(np.linalg.det(cells))[:, None]
    known = volume > 0
    return np.where(known, -voigt(virial) / np.where(known, volume, 1.0), np.nan)
