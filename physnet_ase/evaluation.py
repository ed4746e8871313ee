"""Molecules in their states through compiled programs: batches, and their results."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from physnet_ase.config import ModelConfig
from physnet_ase.fragments import (
    Parting,
    alone,
    apart,
    candidate_states,
    partings,
    share_out,
)
from physnet_ase.graph import Graph, build_graph, centred
from physnet_ase.molecules import Molecules, concatenate
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

    fragments: tuple[tuple[np.ndarray, ElectronicState], ...] = ()

    def __init__(self, state: ElectronicState, properties: dict[str, Any]) -> None:
        self.state = state
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

    def evaluate(
        self,
        programs: Programs,
        references: References,
        wanted: Collection[str],
        *,
        again: bool = False,
    ) -> list[Result]:
        """Properties of each molecule; ``wanted`` must be what the model has.

        Args:
            programs: The model.
            references: Its reference energies.
            wanted: Some of :data:`PROPERTIES`.
            again: Keep what does not move on the device for the next call.

        Raises:
            FloatingPointError: A result is not finite; the molecule is named.
            ValueError: See :func:`evaluate_parts`.
        """
        if len(self.molecules) == 1:
            ways = ways_apart(self.molecules, self.pairs, programs.config.cutoff)
            if ways:
                own = self.molecules, self.pairs
                return [evaluate_parts(programs, references, *own, wanted, ways)]
        found = self.values(programs, references, wanted, again=again)
        return list(map(Result, self.states, found))

    def values(
        self,
        programs: Programs,
        references: References,
        wanted: Collection[str],
        *,
        again: bool = False,
    ) -> list[dict[str, Any]]:
        """What :meth:`evaluate` makes results of, each molecule as a whole."""
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
            own["stress"] = _voigt(computed["virial"][slot] / volume)
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


def evaluate_molecules(
    programs: Programs,
    references: References,
    molecules: Molecules,
    pairs: Sequence[Pairs],
    wanted: Collection[str],
) -> list[Result]:
    """Evaluate molecules whose states are checked, in few batches.

    Args:
        programs: The model.
        references: Its reference energies.
        molecules: Structures and states.
        pairs: Those of each molecule, numbered from 0.
        wanted: Some of :data:`PROPERTIES`, which these molecules have.
    """
    cutoff = programs.config.cutoff
    ways = [
        ways_apart(molecules.take(np.array([row])), own, cutoff)
        for row, own in enumerate(pairs)
    ]
    whole = np.array([row for row, own in enumerate(ways) if not own], np.int64)
    known = _in_batches(
        programs,
        references,
        molecules.take(whole),
        [pairs[row] for row in whole.tolist()],
        wanted,
    )
    values = dict(zip(whole.tolist(), known, strict=True))
    return [
        evaluate_parts(
            programs,
            references,
            molecules.take(np.array([row])),
            pairs[row],
            wanted,
            ways[row],
        )
        if ways[row]
        else Result(state, values[row])
        for row, state in enumerate(molecules.states())
    ]


def _in_batches(
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


def ways_apart(molecule: Molecules, pairs: Pairs, cutoff: float) -> list[Parting]:
    """Ways to cut one molecule into fragments; none where it hangs together.

    Periodic systems are never cut.
    """
    if molecule.periodic[0]:
        return []
    ways = partings(molecule.values["positions"], pairs, cutoff)
    return ways if any(way.labels.any() for way in ways) else []


def evaluate_parts(
    programs: Programs,
    references: References,
    molecule: Molecules,
    pairs: Pairs,
    wanted: Collection[str],
    ways: Sequence[Parting],
) -> Result:
    """One molecule whose far fragments have states of their own.

    Args:
        programs: The model.
        references: Its reference energies.
        molecule: One open system.
        pairs: Its pairs.
        wanted: Some of :data:`PROPERTIES`.
        ways: Of :func:`ways_apart`.

    Raises:
        ValueError: Second derivatives are wanted of fragments that are neither apart
            nor together.
    """
    [total] = molecule.states()
    second = {"hessian", "dipole_derivatives"} & set(wanted)
    if len(ways) > 1 and second:
        raise ValueError(
            f"{', '.join(sorted(second))}: fragments of this structure are about to "
            f"part, nearly {programs.config.cutoff} Å from each other; bring them "
            "nearer, or further apart"
        )
    needed = [*wanted] if len(ways) == 1 else list({*wanted, "energy"})
    sums: dict[str, Any] = {}
    fragments: tuple[tuple[np.ndarray, ElectronicState], ...] = ()
    for way in ways:
        states = _states_of_parts(programs, references, molecule, pairs, way, total)
        if states is None:
            [values] = Batch(molecule, pairs).values(programs, references, needed)
        else:
            rows, own_pairs, order = apart(molecule, pairs, way.labels, states)
            batch = Batch(rows, own_pairs, together=True)
            values = _joined(batch.values(programs, references, needed), order)
            if way.weight == max(one.weight for one in ways):
                fragments = tuple(
                    (np.flatnonzero(way.labels == label), state)
                    for label, state in enumerate(states)
                )
        _add_slopes(values, way, molecule)
        for name, value in values.items():
            if not name.endswith("_std"):
                sums[name] = sums.get(name, 0.0) + way.weight * value
    members = {name: sums[key] for name, key in MEMBERS.items() if key in sums}
    named = {name: sums[name] for name in sums if name not in PROPERTIES}
    asked = {name: sums[name] for name in wanted if name in sums}
    result = Result(total, named | asked | spread(members))
    result.fragments = fragments
    return result


def _states_of_parts(
    programs: Programs,
    references: References,
    molecule: Molecules,
    pairs: Pairs,
    way: Parting,
    total: ElectronicState,
) -> list[ElectronicState] | None:
    """States of the fragments by their energies alone; None for a whole."""
    if not way.labels.any():
        return None
    numbers = molecule.values["atomic_numbers"]
    odd = np.bincount(way.labels, numbers) % 2
    if total == ElectronicState(0, 1) and not odd.any():
        return [total] * len(odd)  # closed shells have nothing to share out
    jobs: list[Molecules] = []
    listed: list[Pairs] = []
    allowed = []
    for label in range(int(way.labels.max()) + 1):
        one, its_pairs = alone(molecule, pairs, way.labels == label)
        states = candidate_states(
            one.values["atomic_numbers"], total, list(references.state_energies)
        )
        allowed.append(states)
        for state in states:
            charge = np.array([state.charge], np.int32)
            spin = np.array([state.multiplicity], np.int32)
            jobs.append(one.with_values(total_charge=charge, spin_multiplicity=spin))
        listed += [its_pairs] * len(states)
    chosen = None
    if all(allowed):
        found = _in_batches(
            programs, references, concatenate(jobs), listed, ("energy",)
        )
        energies = iter([values["energy"] for values in found])
        table = [{state: next(energies) for state in states} for states in allowed]
        chosen = share_out(table, total)
    if chosen is None:
        warnings.warn(
            f"{len(allowed)} fragments of this structure are further apart than the "
            f"model sees, and it knows no states of theirs that make up {total}: it "
            "treats them as one molecule",
            UserWarning,
            stacklevel=2,
        )
    return chosen


class Division(NamedTuple):
    """The fragments of a system and their states, held while its atoms move."""

    labels: np.ndarray  # [atoms] int32, ascending; all 0 for what hangs together
    states: tuple[ElectronicState, ...]
    reference: float  # eV, of all atoms in these states


def undivided(
    references: References, numbers: np.ndarray, state: ElectronicState
) -> Division:
    """A system in one piece."""
    reference = float(np.sum(references.of_atoms(numbers, state)))
    return Division(np.zeros(len(numbers), np.int32), (state,), reference)


def division(
    programs: Programs, references: References, molecule: Molecules, pairs: Pairs
) -> Division:
    """How programs that are compiled once, such as dynamics, are to cut a system.

    They do not look for the best way at each step: which atom belongs to which fragment
    and what each holds stays as it is here.
    """
    [total] = molecule.states()
    numbers = molecule.values["atomic_numbers"]
    whole = undivided(references, numbers, total)
    ways = ways_apart(molecule, pairs, programs.config.cutoff)
    if not ways:
        return whole
    way = max(ways, key=lambda one: one.weight)
    if (np.diff(way.labels) < 0).any():
        warnings.warn(
            "the atoms of fragments far from each other do not stand one after "
            "another, so one charge and one multiplicity are spread over all of them; "
            "sort the atoms by fragment",
            UserWarning,
            stacklevel=2,
        )
        return whole
    states = _states_of_parts(programs, references, molecule, pairs, way, total)
    if states is None:
        return whole
    reference = sum(
        float(np.sum(references.of_atoms(numbers[way.labels == label], state)))
        for label, state in enumerate(states)
    )
    return Division(way.labels.astype(np.int32), tuple(states), reference)


def _joined(parts: Sequence[dict[str, Any]], order: np.ndarray) -> dict[str, Any]:
    """Values of a system from those of its fragments, atoms in their own order."""
    place, values = np.argsort(order), {}
    for name in parts[0]:
        each = [part[name] for part in parts]
        if name in ("energy", "dipole", "stress", "member_energies"):
            values[name] = sum(each)
        elif name == "hessian":  # that of the system, the same for each
            rows = (3 * place[:, None] + np.arange(3)).ravel()
            values[name] = each[0][np.ix_(rows, rows)]
        elif name == "dipole_derivatives":
            joined = np.concatenate(each).reshape(-1, 9)
            values[name] = joined[place].reshape(-1, 3)
        elif not name.endswith("_std"):
            axis = 1 if name.startswith("member_") else 0
            values[name] = np.concatenate(each, axis).take(place, axis)
    return values


def _add_slopes(values: dict[str, Any], way: Parting, molecule: Molecules) -> None:
    """Add what the change of a way's weight does, divided by that weight."""
    if not way.gradient.any():
        return
    slope = way.gradient / way.weight
    if "forces" in values:
        values["forces"] = values["forces"] - values["energy"] * slope
    if "member_forces" in values:
        energies = values.get("member_energies", np.array([values["energy"]]))
        values["member_forces"] = (
            values["member_forces"] - energies[:, None, None] * slope
        )
    if "stress" in values:
        virial = values["energy"] * molecule.values["positions"].T @ slope
        volume = abs(np.linalg.det(molecule.values["cell"][0]))
        values["stress"] = values["stress"] + _voigt(virial) / volume


def _voigt(tensor: np.ndarray) -> np.ndarray:
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
