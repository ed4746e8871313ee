"""Many structures and states through few compiled calls, and back into results."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from physnet_ase.graph import Graph
from physnet_ase.neighbors import (
    Pairs,
    Structure,
    build_graph,
    check_distances,
    find_pairs,
)
from physnet_ase.potential import Potential
from physnet_ase.state import ElectronicState, as_state, resolve_state

PROPERTIES = (
    "energy",
    "forces",
    "stress",
    "dipole",
    "charges",
    "spin_populations",
    "energies",
    "features",
    "hessian",
    "dipole_derivatives",
)
"""What ``Potential.evaluate`` can be asked for."""
_OWN_PROGRAM = {"hessian", "dipole_derivatives"}
"""Properties that are computed apart from the others."""
MAX_ATOMS, MAX_PAIRS = 512, 16384
"""A batch is closed before it grows beyond these, unless one structure alone does."""


class Result:
    """Properties of one structure in one state, as attributes.

    energy (eV), forces (atoms, 3) eV/Å, stress (6,) eV/Å³ in ASE's order, dipole (3,)
    e·Å about the coordinate origin, charges (atoms,) e, spin_populations (atoms,),
    energies (atoms,) eV, features (atoms, F), hessian (3·atoms, 3·atoms) eV/Å²,
    dipole_derivatives (3·atoms, 3) e (row: coordinate, column: component), each float64
    NumPy; ``state`` is the electronic state.
    """

    def __init__(self, state: ElectronicState, values: dict[str, Any]) -> None:
        self.state = state
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        """Say what to do about a property that was not asked for."""
        if name in PROPERTIES:
            raise AttributeError(
                f"{name} was not computed; ask for it: properties=({name!r}, …)"
            )
        raise AttributeError(name)

    def __repr__(self) -> str:
        held = ", ".join(name for name in PROPERTIES if name in self.__dict__)
        return f"Result({self.state}: {held})"


def evaluate(
    potential: Potential,
    atoms: Any,
    states: Sequence[Any] | None,
    properties: Sequence[str],
    *,
    allow_unseen_states: bool = False,
) -> Any:
    """Implement ``Potential.evaluate``; its docstring says what this does."""
    single = hasattr(atoms, "positions")
    several = [atoms] if single else list(atoms)
    chosen = None if states is None else _listed(states)
    structures, pairs = [], []
    jobs: list[tuple[int, ElectronicState]] = []
    for index, one in enumerate(several):
        try:
            structures.append(Structure.from_atoms(one))
            for state in chosen or [resolve_state(one)]:
                potential.check(
                    one.numbers, state, allow_unseen_states=allow_unseen_states
                )
                jobs.append((index, state))
            pairs.append(find_pairs(structures[-1], potential.config.cutoff))
            check_distances(structures[-1], pairs[-1])
        except ValueError as error:
            if single:
                raise
            raise ValueError(f"structure {index}: {error}") from error
    flat = compute(
        potential,
        [structures[index] for index, _ in jobs],
        [state for _, state in jobs],
        [pairs[index] for index, _ in jobs],
        properties,
    )
    if chosen is None:
        return flat[0] if single else flat
    width = len(chosen)
    rows = [flat[i * width : (i + 1) * width] for i in range(len(several))]
    return rows[0] if single else rows


def _listed(states: Any) -> list[ElectronicState]:
    try:
        listed = [as_state(state) for state in states]
    except TypeError:  # a single state, or entries that are no pairs
        listed = []
    if not listed:
        raise ValueError(
            "states must be a non-empty list of states, each an ElectronicState or "
            f"(charge, multiplicity), got {states!r}"
        )
    return listed


def compute(
    potential: Potential,
    structures: Sequence[Structure],
    states: Sequence[ElectronicState],
    pairs: Sequence[Pairs],
    properties: Sequence[str],
) -> list[Result]:
    """Evaluate structures whose states are checked and whose pairs are known."""
    wanted = _check_properties(potential, structures, properties)
    results: list[Result | None] = [None] * len(structures)
    kind = (
        "stress" if "stress" in wanted else "forces" if "forces" in wanted else "terms"
    )
    for rows in _plan(structures, pairs, alone="hessian" in wanted):
        graph = build_graph(
            [structures[r] for r in rows],
            [states[r] for r in rows],
            [pairs[r] for r in rows],
        )
        arrays = {}
        if wanted - _OWN_PROGRAM:
            arrays.update(potential.run(graph, kind))
        for name in wanted & _OWN_PROGRAM:
            arrays.update(potential.run(graph, name))
        chosen = _Arrays(arrays, graph, wanted)
        for slot, row in enumerate(rows):
            values = chosen.values(potential, slot, structures[row], states[row])
            results[row] = Result(states[row], values)
    return [result for result in results if result is not None]


def _check_properties(
    potential: Potential, structures: Sequence[Structure], properties: Sequence[str]
) -> set[str]:
    unknown = set(properties) - set(PROPERTIES)
    if isinstance(properties, str) or unknown or not properties:
        raise ValueError(f"properties must be some of {PROPERTIES}, got {properties!r}")
    if "spin_populations" in properties and not potential.config.spin_populations:
        raise ValueError(
            "this model was not trained on spin populations; retrain with "
            "spin_populations = true and labels that hold them"
        )
    for index, structure in enumerate(structures):
        if "stress" in properties and not structure.pbc.all():
            raise ValueError(
                f"stress needs three periodic directions; structure {index} has "
                f"pbc={structure.pbc.tolist()}"
            )
        if structure.pbc.any() and not {"dipole", "dipole_derivatives"}.isdisjoint(
            properties
        ):
            raise ValueError(
                "the dipole has no meaning along periodic directions; structure "
                f"{index} has pbc={structure.pbc.tolist()}"
            )
    return set(properties)


def _plan(
    structures: Sequence[Structure], pairs: Sequence[Pairs], *, alone: bool
) -> list[list[int]]:
    """Group rows of similar size into batches; open and periodic ones stay apart."""
    order = sorted(
        range(len(structures)),
        key=lambda i: (bool(structures[i].pbc.any()), len(structures[i].numbers), i),
    )
    batches: list[list[int]] = []
    atoms = num_pairs = 0
    for row in order:
        atoms += len(structures[row].numbers)
        num_pairs += len(pairs[row].senders)
        new = (
            not batches
            or alone
            or atoms > MAX_ATOMS
            or num_pairs > MAX_PAIRS
            or structures[batches[-1][-1]].pbc.any() != structures[row].pbc.any()
        )
        if new:
            batches.append([])
            atoms = len(structures[row].numbers)
            num_pairs = len(pairs[row].senders)
        batches[-1].append(row)
    return batches


class _Arrays:
    """Host copies of one batch's arrays, cut into structures on request."""

    def __init__(self, arrays: dict[str, Any], graph: Graph, wanted: set[str]) -> None:
        needed = wanted - {"energy", "energies", "stress", "dipole"}
        if wanted & {"energy", "energies"}:
            needed |= {"energies"}
        if "stress" in wanted:
            needed |= {"virial"}
        if "dipole" in wanted:
            needed |= {"charges"}
        self.wanted = wanted
        self.arrays = {key: np.asarray(arrays[key], np.float64) for key in needed}
        counts = np.bincount(graph.molecule_index[graph.atom_mask])
        self.starts = np.concatenate([[0], np.cumsum(counts)])

    def values(
        self,
        potential: Potential,
        slot: int,
        structure: Structure,
        state: ElectronicState,
    ) -> dict[str, Any]:
        """Properties of one structure, with references and sums in float64."""
        start, stop = self.starts[slot], self.starts[slot + 1]
        values: dict[str, Any] = {}
        if "energies" in self.arrays:
            energies = self.arrays["energies"][start:stop]
            energies = energies + potential.reference_energies(structure.numbers, state)
            values["energy"] = float(np.sum(energies))
            values["energies"] = energies
        for name in ("forces", "charges", "spin_populations", "features"):
            if name in self.arrays:
                values[name] = self.arrays[name][start:stop]
        if "virial" in self.arrays:
            volume = abs(np.linalg.det(structure.cell))
            stress = self.arrays["virial"][slot] / volume
            values["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        if "dipole" in self.wanted:
            values["dipole"] = values["charges"] @ structure.positions
        if "hessian" in self.arrays:
            size = 3 * (stop - start)
            hessian = self.arrays["hessian"][:size, :size]
            values["hessian"] = 0.5 * (hessian + hessian.T)
        if "dipole_derivatives" in self.arrays:
            rows = self.arrays["dipole_derivatives"][start:stop]
            values["dipole_derivatives"] = rows.reshape(-1, 3)
        return {name: value for name, value in values.items() if name in self.wanted}
