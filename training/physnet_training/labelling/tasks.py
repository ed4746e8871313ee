"""What a worker does: prepare a surface, make a geometry, label it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

from physnet_ase.quantities import QUANTITIES
from physnet_ase.state import ElectronicState, with_state
from physnet_training.labelling.methods import Method
from physnet_training.labelling.plan import check_geometry
from physnet_training.labelling.sampling import (
    Sampling,
    displace,
    move,
    prepare,
    random_generator,
    vibrate,
)

Array = NDArray[np.float64]

PROPERTIES = {
    "forces": "forces",  # first: a method may do energy and forces at once
    "energy": "energy",
    "dipole": "dipole",
    "charges": "charges",
    "magmoms": "spin_populations",
    "stress": "stress",
}
"""Property of an ASE calculator -> field of a packed dataset, both in eV, Å and e."""


@dataclass(frozen=True)
class Task:
    """What a worker gets.

    Attributes:
        chain: Number of the chain.
        sample: Number of the geometry; None: only prepare the surface.
        atoms: The start: structure, relaxed structure, or a trajectory's last frame.
        surface: The state that is sampled.
        states: The states to label, with their places in the chain.
        kind: How the geometry is made from the start; ``none`` takes it as it is.
        temperature: K.
        hessian: [3·atoms, 3·atoms] eV/Å².
        sampling: All settings.
        method: What labels.
        surface_method: What samples.
    """

    chain: int
    sample: int | None
    atoms: Atoms
    surface: ElectronicState
    states: tuple[tuple[int, ElectronicState], ...]
    kind: str
    temperature: float | None
    hessian: Any
    sampling: Sampling
    method: Method
    surface_method: Method


class Prepared(NamedTuple):
    """A surface is relaxed, and its Hessian known."""

    values: dict[str, Any]


class Moved(NamedTuple):
    """A trajectory arrived at its next geometry."""

    values: dict[str, Any]


class Labelled(NamedTuple):
    """A label."""

    state: int
    values: dict[str, Any]


class Failed(NamedTuple):
    """A label that failed, or (state None) the geometry for all of them."""

    state: int | None
    reason: str


Event = Prepared | Moved | Labelled | Failed


def perform(task: Task) -> Iterator[Event]:
    """Do a task; runs in a worker. Whatever goes wrong is reported, not raised."""
    try:
        if task.sample is None:
            calculator = task.surface_method.calculator(task.surface)
            start = prepare(task.atoms, calculator, task.sampling)
            hessian = None if start.hessian is None else start.hessian.tolist()
            yield Prepared({"positions": start.positions.tolist(), "hessian": hessian})
            return
        atoms = _geometry(task)
    # A method may raise anything at all; its failure is a result here.
    except Exception as error:
        yield Failed(None, _reason(error))
        return
    if task.kind == "dynamics":
        yield Moved(
            {
                "positions": atoms.positions.tolist(),
                "momenta": atoms.get_momenta().tolist(),
            }
        )
    for place, state in task.states:
        begin = time.monotonic()
        try:
            values = label_geometry(atoms, state, task.method, row=task.chain)
        except Exception as error:  # as above
            yield Failed(place, _reason(error))
        else:
            values["seconds"] = round(time.monotonic() - begin, 3)
            yield Labelled(place, values)


def _geometry(task: Task) -> Atoms:
    """The geometry to be labelled, from the task's start."""
    atoms = task.atoms.copy()
    rng = random_generator(task.sampling.seed, task.chain, task.sample)
    if task.kind == "displace":
        displace(atoms, task.sampling.amplitude, rng)
    elif task.kind == "modes":
        vibrate(atoms, np.asarray(task.hessian), task.temperature or 0.0, rng)
    elif task.kind == "dynamics":
        temperature = task.temperature or 0.0
        calculator = task.surface_method.calculator(task.surface)
        move(atoms, calculator, task.sampling, temperature_K=temperature, rng=rng)
    return atoms


def label_geometry(
    atoms: Atoms, state: ElectronicState, method: Method, *, row: int
) -> dict[str, Any]:
    """Energy and whatever else the method knows, as plain lists in eV, Å and e.

    Args:
        atoms: The geometry.
        state: Charge and multiplicity.
        method: What calculates.
        row: Number for messages.

    Raises:
        ValueError: A result is not finite or has a wrong shape, or atoms coincide.
    """
    check_geometry(atoms, row)
    atoms = with_state(atoms, state)
    calculator = method.calculator(state)
    labels: dict[str, Any] = {}
    for name, field in PROPERTIES.items():
        if name == "stress" and not atoms.pbc.all():
            continue
        if name in calculator.implemented_properties:
            try:
                value = calculator.get_property(name, atoms)
            except PropertyNotImplementedError:
                continue
            labels[field] = _checked(field, value, len(atoms))
    if "energy" not in labels:
        raise ValueError("the method gives no energy")
    squared = getattr(calculator, "results", {}).get("s_squared")
    return {
        "positions": atoms.positions.tolist(),
        **{name: value.tolist() for name, value in labels.items()},
        **({} if squared is None else {"s_squared": float(squared)}),
    }


def _checked(field: str, value: Any, num_atoms: int) -> Array:
    """A result as the array that the dataset stores.

    Raises:
        ValueError: It has a wrong shape or is not finite.
    """
    array = np.asarray(value, dtype=np.float64)
    lead = (num_atoms,) if QUANTITIES[field].per_atom else ()
    expected = (*lead, *QUANTITIES[field].shape)
    if array.shape != expected:
        raise ValueError(
            f"the method returned {field} of shape {array.shape}, expected {expected}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"the method returned {field} that are not finite")
    return array


def _reason(error: Exception) -> str:
    """One line; the kind of the error only where it says more than the text."""
    text = " ".join(str(error).split())
    return (
        text
        if type(error) in (ValueError, RuntimeError) and text
        else (f"{type(error).__name__}: {text}")
    )
