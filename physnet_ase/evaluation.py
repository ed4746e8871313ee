"""Molecules in their states through compiled programs: batches, and their results."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph, build_graph, centred
from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import Pairs, join_pairs
from physnet_ase.programs import Programs
from physnet_ase.references import References
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
    "forces_std",
)
"""What ``Potential.evaluate`` can be asked for."""
MAX_ATOMS, MAX_PAIRS = 512, 16384
"""A batch is closed before it grows beyond these, unless one molecule alone does."""
_OWN_PROGRAM = {
    "hessian": "hessian",
    "dipole_derivatives": "dipole_derivatives",
    "forces_std": "member_forces",
}
"""Properties that need a program of their own, and that."""
_COMPUTED_AS = {
    "dipole": "charges",
    "energy": "energies",
    "stress": "virial",
    "forces_std": "member_forces",
}
"""Properties that are made on the host from what a program gives."""
MEMBERS = {
    "energy": "member_energies",
    "forces": "member_forces",
    "charges": "member_charges",
}
"""Properties whose spread is known, and what the members of a committee say of them."""
NO_SPREAD = (
    "this model has one head, and nothing to compare its forces with; take several "
    "models, or one that was trained with model.num_heads"
)


class Result:
    """Properties of one structure in one state, as attributes.

    energy (eV), forces (atoms, 3) eV/Å, stress (6,) eV/Å³ in ASE's order, dipole (3,)
    e·Å about the coordinate origin, charges (atoms,) e, spin_populations (atoms,),
    energies (atoms,) eV, features (atoms, F), hessian (3·atoms, 3·atoms) eV/Å²,
    dipole_derivatives (3·atoms, 3) e (row: coordinate, column: component), each float64
    NumPy; ``state`` is the electronic state.

    Of a committee, of models or of a model's own heads, these are means. Beside energy
    and charges stand ``energy_std`` and ``charges_std``, standard deviations over the
    members (divided by their number, so zero where all agree), and what each member
    says, ``member_energies`` (members,) and ``member_charges`` (members, atoms);
    ``forces_std`` (atoms, 3), where asked for, comes with ``member_forces``.

    ``fragments`` holds the atoms and the state of each part of an open system whose
    parts are out of each other's sight (:mod:`physnet_ase.fragments`), else nothing.
    """

    def __init__(
        self,
        state: ElectronicState,
        properties: dict[str, Any],
        fragments: tuple[tuple[np.ndarray, ElectronicState], ...] = (),
    ) -> None:
        self.state, self.fragments = state, fragments
        self.__dict__.update(properties)

    def __getattr__(self, name: str) -> Any:
        """Say what to do about a property that was not asked for."""
        if name in PROPERTIES:
            raise AttributeError(
                f"{name} was not computed; ask for it: properties=({name!r}, …)"
            )
        raise AttributeError(name)

    def members(self, name: str) -> np.ndarray:
        """What each member says, [members, …]; one alone is the only one.

        Args:
            name: Of :data:`MEMBERS`.
        """
        if MEMBERS[name] in self.__dict__:
            return np.asarray(self.__dict__[MEMBERS[name]])
        return np.array([getattr(self, name)])

    def __repr__(self) -> str:
        held = ", ".join(name for name in PROPERTIES if name in self.__dict__)
        return f"Result({self.state}: {held})"


class Batch:
    """Molecules, each in its state, for one or many evaluations.

    States must be checked already, and ``pairs`` hold those within the cutoff. Where
    only positions change from call to call, ``move`` spares everything else: one array
    goes to the device instead of seventeen.

    Args:
        molecules: Structures and states.
        pairs: Theirs.
        together: They are the fragments of one system and keep their places.
    """

    def __init__(
        self, molecules: Molecules, pairs: Pairs, *, together: bool = False
    ) -> None:
        self.molecules, self.pairs = molecules, pairs
        self.states = molecules.states()
        place = molecules.values["positions"]
        moved = (
            molecules.with_values(positions=place - place.mean(axis=0))
            if together
            else centred(molecules)
        )
        self.graph = build_graph(moved, pairs)
        self._on_device: dict[np.dtype[Any], Graph] = {}

    def fits(self, molecule: Molecules, pairs: Pairs) -> bool:
        """Whether the only molecule of this batch is that one but for positions."""
        return self.pairs is pairs and np.array_equal(
            self.molecules.values["atomic_numbers"], molecule.values["atomic_numbers"]
        )

    def move(self, molecule: Molecules) -> None:
        """Give the only molecule of a batch, which must fit, new positions."""
        self.molecules = molecule
        positions = molecule.values["positions"]
        self.graph.positions[: len(positions)] = positions - positions.mean(axis=0)

    def values(
        self,
        programs: Programs,
        references: References,
        wanted: Collection[str],
        *,
        again: bool = False,
    ) -> list[dict[str, Any]]:
        """Properties of each molecule; ``wanted`` must be what the model has.

        Args:
            programs: The model.
            references: Its reference energies.
            wanted: Some of :data:`PROPERTIES`.
            again: Keep what does not move on the device for the next call.

        Raises:
            FloatingPointError: A result is not finite; the molecule is named.
        """
        graph = self._prepared(programs) if again else self.graph
        computed: dict[str, Any] = {}
        if set(wanted) - _OWN_PROGRAM.keys():
            kinds = [name for name in ("stress", "forces") if name in wanted]
            computed |= programs.run(graph, kinds[0] if kinds else "terms")
        for name, kind in _OWN_PROGRAM.items():
            if name in wanted:
                computed |= programs.run(graph, kind)
        host = {
            name: np.asarray(computed[name], np.float64)
            for name in {_COMPUTED_AS.get(name, name) for name in wanted}
        }
        if programs.config.num_heads > 1 and "deviations" in computed:
            apart = np.asarray(computed["deviations"], np.float64)
            host["energies_apart"] = apart[:, :, 0]
            if not programs.config.charges_are_shared:
                host["charges_apart"] = apart[:, :, 1]
        for name, array in host.items():
            if not np.isfinite(array).all():
                self._refuse_result(name, array)
        return [
            self._cut(references, slot, host, wanted)
            for slot in range(len(self.molecules))
        ]

    def _refuse_result(self, name: str, array: np.ndarray) -> None:
        bad = int(np.argmin(np.isfinite(array.reshape(len(array), -1)).all(axis=1)))
        slot = bad if name == "virial" else int(self.graph.molecule_index[bad])
        where = (
            "" if name == "hessian" else f" of structure {self.molecules.rows[slot]}"
        )
        raise FloatingPointError(
            f"the model gives {name}{where} that are not finite; check the geometry, "
            'evaluate with dtype="float64", or get the model again if its weights were '
            "damaged"
        )

    def _prepared(self, programs: Programs) -> Graph:
        dtype = programs.dtype
        if dtype not in self._on_device:
            self._on_device[dtype] = programs.prepare(self.graph)
        # A copy, because JAX may read NumPy's memory after `move` has overwritten it.
        positions = np.array(self.graph.positions, dtype)
        return self._on_device[dtype]._replace(positions=positions)

    def _cut(
        self,
        references: References,
        slot: int,
        computed: dict[str, np.ndarray],
        wanted: Collection[str],
    ) -> dict[str, Any]:
        """Properties of one molecule, with references and sums in float64."""
        values, state = self.molecules.values, self.states[slot]
        first = int(self.molecules.first_atom[slot])
        atoms = slice(first, first + int(self.molecules.n_atoms[slot]))
        own: dict[str, Any] = {}
        if "energies" in computed:
            numbers = values["atomic_numbers"][atoms]
            own["energies"] = computed["energies"][atoms] + references.of_atoms(
                numbers, state
            )
            own["energy"] = float(np.sum(own["energies"]))
        for name in ("forces", "charges", "spin_populations", "features"):
            if name in computed:
                own[name] = computed[name][atoms]
        if "virial" in computed:
            volume = abs(np.linalg.det(values["cell"][slot]))
            own["stress"] = voigt(computed["virial"][slot] / volume)
        if "dipole_derivatives" in computed:
            own["dipole_derivatives"] = computed["dipole_derivatives"][atoms].reshape(
                -1, 3
            )
        if "dipole" in wanted:
            own["dipole"] = own["charges"] @ values["positions"][atoms]
        if "hessian" in computed:
            size = 3 * self.molecules.num_atoms  # it is computed for one system only
            hessian = computed["hessian"][:size, :size]
            own["hessian"] = 0.5 * (hessian + hessian.T)
        members: dict[str, np.ndarray] = {}
        if "energy" in wanted and "energies_apart" in computed:
            apart = computed["energies_apart"][atoms].sum(axis=0)
            members["energy"] = own["energy"] + apart
        if "charges" in wanted and "charges_apart" in computed:
            members["charges"] = own["charges"] + computed["charges_apart"][atoms].T
        if "member_forces" in computed:
            members["forces"] = np.moveaxis(computed["member_forces"][atoms], 1, 0)
        asked = {name: own[name] for name in wanted if name in own}
        return asked | spread(members)


def spread(members: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the members of a committee say, and the standard deviation over them.

    Args:
        members: Name of :data:`MEMBERS` -> [members, …].
    """
    said = {MEMBERS[name]: each for name, each in members.items()}
    return said | {f"{name}_std": each.std(axis=0) for name, each in members.items()}


def in_batches(
    programs: Programs,
    references: References,
    molecules: Molecules,
    pairs: Sequence[Pairs],
    wanted: Collection[str],
) -> list[dict[str, Any]]:
    """Values of molecules that are each a whole, in few batches."""
    found: list[dict[str, Any]] = [{} for _ in pairs]
    for rows in _plan(molecules, pairs, alone="hessian" in wanted):
        chosen = molecules.take(np.array(rows))
        batch = Batch(chosen, join_pairs([pairs[row] for row in rows], chosen.n_atoms))
        evaluated = batch.values(programs, references, wanted)
        for row, values in zip(rows, evaluated, strict=True):
            found[row] = values
    return found


def voigt(tensor: np.ndarray) -> np.ndarray:
    """A symmetric tensor in ASE's order."""
    return tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def check_properties(
    properties: Sequence[str],
    pbc: np.ndarray,
    periodic: np.ndarray,
    *,
    config: ModelConfig,
) -> set[str]:
    """Refuse properties that a model or a structure does not have.

    Args:
        properties: What was asked for.
        pbc: [molecules, 3] periodic directions as the user has them.
        periodic: [molecules] bool: it has images, and is not alone in a box.
        config: Of the model.

    Raises:
        ValueError: The message names the property and the structure.
    """
    unknown = set(properties) - set(PROPERTIES)
    if isinstance(properties, str) or unknown or not properties:
        raise ValueError(f"properties must be some of {PROPERTIES}, got {properties!r}")
    if "forces_std" in properties and config.num_heads == 1:
        raise ValueError(NO_SPREAD)
    if "spin_populations" in properties and not config.spin_populations:
        raise ValueError(
            "this model was not trained on spin populations; retrain with "
            "spin_populations = true and labels that hold them"
        )
    open_ones = ~pbc.astype(bool).all(axis=1)
    if "stress" in properties and open_ones.any():
        index = int(np.argmax(open_ones))
        raise ValueError(
            f"stress needs three periodic directions; structure {index} has "
            f"pbc={pbc[index].astype(bool).tolist()}"
        )
    if periodic.any() and not {"dipole", "dipole_derivatives"}.isdisjoint(properties):
        index = int(np.argmax(periodic))
        raise ValueError(
            "the dipole has no meaning along periodic directions; structure "
            f"{index} has pbc={pbc[index].astype(bool).tolist()}"
        )
    return set(properties)


def _plan(
    molecules: Molecules, pairs: Sequence[Pairs], *, alone: bool
) -> list[list[int]]:
    """Group rows of similar size into batches; open and periodic ones stay apart."""
    periodic, sizes = molecules.periodic, molecules.n_atoms
    order = np.lexsort((np.arange(len(sizes)), sizes, periodic)).tolist()
    batches: list[list[int]] = []
    atoms = num_pairs = 0
    for row in order:
        atoms += int(sizes[row])
        num_pairs += len(pairs[row].senders)
        new = (
            not batches
            or alone
            or atoms > MAX_ATOMS
            or num_pairs > MAX_PAIRS
            or periodic[batches[-1][-1]] != periodic[row]
        )
        if new:
            batches.append([])
            atoms = int(sizes[row])
            num_pairs = len(pairs[row].senders)
        batches[-1].append(row)
    return batches
