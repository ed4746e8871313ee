"""What an executor calculates: plain functions of plain data."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

from physnet_ase.quantities import QUANTITIES, labels
from physnet_ase.state import ElectronicState, with_state
from physnet_training.label.executors import reason
from physnet_training.label.methods import Method
from physnet_training.label.plan import Chain, Plan
from physnet_training.label.sampling import (
    Sampling,
    displace,
    move,
    prepare,
    random_generator,
    vibrate,
)
from physnet_training.label.smiles import check_bonds, conformer
from physnet_training.label.structures import check_geometry

Array = NDArray[np.float64]
Values = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A result, or why there is none.

    Attributes:
        values: JSON-serialisable; None where the calculation failed.
        reason: Of a failure.
    """

    values: Values | None
    reason: str = ""


def attempt(function: Callable[..., Values], *arguments: Any) -> Outcome:
    """Call a function of this module; whatever goes wrong is a result, too."""
    try:
        return Outcome(function(*arguments))
    # A method may raise anything at all, and not all of it could be sent back.
    except Exception as error:
        return Outcome(None, reason(error))


def needs_start(chain: Chain, plan: Plan) -> bool:
    """Whether something is calculated before the first geometry."""
    made = chain.structure.atoms is None
    return made or plan.sampling.relax or chain.kind == "modes"


def start(chain: Chain, sampling: Sampling, method: Method) -> Values:
    """The structure that sampling starts from: made, relaxed, and its Hessian.

    Raises:
        RuntimeError: The relaxation does not converge.
        ValueError: There is no geometry, or its bonds are not those of the SMILES.
    """
    structure = chain.structure
    atoms = structure.atoms
    if atoms is None:
        atoms = conformer(structure.smiles)
    prepared = prepare(
        atoms,
        method.calculator(chain.surface),
        sampling,
        hessian=chain.kind == "modes",
    )
    atoms = atoms.copy()
    atoms.positions = prepared.positions
    if structure.smiles:
        check_bonds(structure.smiles, atoms)
    hessian = prepared.hessian
    return {
        "positions": atoms.positions.tolist(),
        "hessian": None if hessian is None else hessian.tolist(),
    }


def started_atoms(chain: Chain, begun: Values | None) -> Atoms:
    """The atoms of a chain at its start."""
    structure = chain.structure
    atoms = structure.atoms
    atoms = Atoms(structure.numbers) if atoms is None else atoms.copy()
    if begun is not None:
        atoms.positions = begun["positions"]
    return atoms


def sampled(chain: Chain, sample: int, begun: Values | None, plan: Plan) -> Atoms:
    """A geometry of a chain that is no trajectory."""
    atoms = started_atoms(chain, begun)
    rng = random_generator(plan.sampling.seed, chain.key, sample)
    if chain.kind == "displace":
        displace(atoms, plan.sampling.amplitude, rng)
    elif chain.kind == "modes" and begun is not None:
        vibrate(atoms, np.asarray(begun["hessian"]), chain.temperature or 0.0, rng)
    return atoms


def advance(
    chain: Chain, sample: int, frame: Atoms, sampling: Sampling, method: Method
) -> Values:
    """The next geometry of a trajectory, and its momenta."""
    move(
        frame,
        method.calculator(chain.surface),
        sampling,
        temperature_K=chain.temperature or 0.0,
        rng=random_generator(sampling.seed, chain.key, sample),
    )
    return {
        "positions": frame.positions.tolist(),
        "momenta": frame.get_momenta().tolist(),
    }


def label_geometry(atoms: Atoms, state: ElectronicState, method: Method) -> Values:
    """Energy and whatever else the method knows, as plain lists in eV, Å and e.

    Args:
        atoms: The geometry.
        state: Charge and multiplicity.
        method: What calculates.

    Raises:
        ValueError: A result is not finite or has a wrong shape, or atoms coincide.
    """
    begin = time.monotonic()
    check_geometry(atoms)
    atoms = with_state(atoms, state)
    calculator = method.calculator(state)
    values: Values = {}
    # Forces first: a method may do energy and forces at once.
    for quantity in sorted(labels(), key=lambda label: label.name != "forces"):
        if quantity.name == "stress" and not atoms.pbc.all():
            continue
        if quantity.ase_name in calculator.implemented_properties:
            try:
                value = calculator.get_property(quantity.ase_name, atoms)
            except PropertyNotImplementedError:
                continue
            values[quantity.name] = _checked(quantity.name, value, len(atoms))
    if "energy" not in values:
        raise ValueError("the method gives no energy")
    squared = getattr(calculator, "results", {}).get("s_squared")
    if squared is not None:
        values["s_squared"] = float(squared)
    values["seconds"] = round(time.monotonic() - begin, 3)
    return values


def label_frame(
    chain: Chain, sample: int, atoms: Atoms, state: ElectronicState, method: Method
) -> Values:
    """The line of the journal for one label: it says all about itself."""
    cell = {"cell": atoms.cell.array.tolist(), "pbc": atoms.pbc.astype(int).tolist()}
    return {
        "name": chain.structure.name,
        "kind": chain.kind,
        "temperature_K": chain.temperature,
        "sample": sample,
        "charge": state.charge,
        "multiplicity": state.multiplicity,
        "atomic_numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        **(cell if atoms.pbc.any() else {}),
        **label_geometry(atoms, state, method),
    }


def _checked(name: str, value: Any, num_atoms: int) -> Any:
    """A result as plain lists.

    Raises:
        ValueError: It has a wrong shape or is not finite.
    """
    array = np.asarray(value, dtype=np.float64)
    expected = QUANTITIES[name].row_shape(1, num_atoms)
    if not QUANTITIES[name].per_atom:
        expected = expected[1:]
    if array.shape != expected:
        raise ValueError(
            f"the method returned {name} of shape {array.shape}, expected {expected}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"the method returned {name} that are not finite")
    return array.tolist()
