"""One padded graph of structures in their states, and its results cut apart again."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from physnet_ase.graph import Graph
from physnet_ase.neighbors import Pairs, Structure, build_graph
from physnet_ase.potential import Potential
from physnet_ase.state import ElectronicState

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
_OWN_PROGRAM = ("hessian", "dipole_derivatives")
"""Properties that need a program of their own."""


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


class Batch:
    """Structures, each in its state, for one or many evaluations.

    States must be checked already, and ``pairs`` hold those within the cutoff. Where
    only positions change from call to call, ``move`` spares everything else: one array
    goes to the device instead of sixteen.
    """

    def __init__(
        self,
        structures: Sequence[Structure],
        states: Sequence[ElectronicState],
        pairs: Sequence[Pairs],
    ) -> None:
        self.structures, self.states, self.pairs = list(structures), states, pairs
        self.graph = build_graph(structures, states, pairs)
        self.starts = np.cumsum([0, *(len(s.numbers) for s in structures)])
        self._on_device: dict[np.dtype[Any], Graph] = {}

    def fits(self, structure: Structure, pairs: Pairs) -> bool:
        """Whether the only structure of this batch is that one but for positions."""
        return self.pairs[0] is pairs and np.array_equal(
            self.structures[0].numbers, structure.numbers
        )

    def move(self, structure: Structure) -> None:
        """Give the only structure of a batch, which must fit, new positions."""
        self.structures[0] = structure
        centred = structure.positions - structure.positions.mean(axis=0)
        self.graph.positions[: len(centred)] = centred

    def evaluate(
        self, potential: Potential, wanted: Collection[str], *, again: bool = False
    ) -> list[Result]:
        """Properties of each structure; ``wanted`` must be what the model has.

        Args:
            potential: The model.
            wanted: Some of :data:`PROPERTIES`.
            again: Keep what does not move on the device for the next call.
        """
        graph = self._prepared(potential) if again else self.graph
        arrays: dict[str, Any] = {}
        if set(wanted) - set(_OWN_PROGRAM):
            kinds = [name for name in ("stress", "forces") if name in wanted]
            arrays |= potential.run(graph, kinds[0] if kinds else "terms")
        for name in _OWN_PROGRAM:
            if name in wanted:
                arrays |= potential.run(graph, name)
        needed = {"dipole": "charges", "energy": "energies", "stress": "virial"}
        host = {
            name: np.asarray(arrays[name], np.float64)
            for name in {needed.get(name, name) for name in wanted}
        }
        return [
            Result(self.states[slot], self._cut(potential, slot, host, wanted))
            for slot in range(len(self.structures))
        ]

    def _prepared(self, potential: Potential) -> Graph:
        dtype = potential.dtype
        if dtype not in self._on_device:
            self._on_device[dtype] = potential.prepare(self.graph)
        # A copy, because JAX may read NumPy's memory after `move` has overwritten it.
        positions = np.array(self.graph.positions, dtype)
        return self._on_device[dtype]._replace(positions=positions)

    def _cut(
        self,
        potential: Potential,
        slot: int,
        arrays: dict[str, np.ndarray],
        wanted: Collection[str],
    ) -> dict[str, Any]:
        """Properties of one structure, with references and sums in float64."""
        structure, state = self.structures[slot], self.states[slot]
        atoms = slice(self.starts[slot], self.starts[slot + 1])
        values: dict[str, Any] = {}
        if "energies" in arrays:
            references = potential.reference_energies(structure.numbers, state)
            values["energies"] = arrays["energies"][atoms] + references
            values["energy"] = float(np.sum(values["energies"]))
        for name in ("forces", "charges", "spin_populations", "features"):
            if name in arrays:
                values[name] = arrays[name][atoms]
        if "virial" in arrays:
            volume = abs(np.linalg.det(structure.cell))
            stress = arrays["virial"][slot] / volume
            values["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        if "dipole_derivatives" in arrays:
            rows = arrays["dipole_derivatives"][atoms]
            values["dipole_derivatives"] = rows.reshape(-1, 3)
        if "dipole" in wanted:
            values["dipole"] = values["charges"] @ structure.positions
        if "hessian" in arrays:
            size = 3 * len(structure.numbers)
            hessian = arrays["hessian"][:size, :size]
            values["hessian"] = 0.5 * (hessian + hessian.T)
        return {name: values[name] for name in wanted}
