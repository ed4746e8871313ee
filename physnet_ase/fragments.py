"""Fragments that lie beyond each other's sight: what each holds of charge and spin.

A network that reads one charge and one multiplicity for the whole system spreads both
over all of its atoms, however far apart. Where no atom of one part is within the cutoff
of another, the system is A + B: each part has a state of its own, and the state of the
whole is the lowest way to share its charge and to couple its spins. Parts that come
near are joined smoothly, over the outer quarter of the cutoff.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import Pairs
from physnet_ase.state import ElectronicState, is_possible, num_electrons

Array = NDArray[Any]

CLOSE = 0.75
"""Of the cutoff: atoms nearer than that belong together."""


class Parting(NamedTuple):
    """One way to cut a system, and what it counts."""

    weight: float
    gradient: Array  # [atoms, 3] of the weight, 1/Å
    labels: Array  # [atoms] int, the fragment of each atom, numbered from 0


def partings(positions: Array, pairs: Pairs, cutoff: float) -> list[Parting]:
    """Ways to cut an open molecule into fragments, weights adding up to 1.

    Groups of atoms that are linked by distances below :data:`CLOSE` times the cutoff
    are never cut. Two groups are bound by w = 1 - Π(1 - s(r_ij)), where s falls
    smoothly from 1 to 0 between there and the cutoff. Joined in the order of falling w
    (the maximum spanning tree, w₁ ≥ w₂ ≥ …), the groups give one way to cut after
    each joint; the k-th counts w_k - w_{k+1}, that before the first 1 - w₁. The sum of
    their energies is continuous wherever the groups move, and its forces are, too, but
    where two of several joints have one strength.

    Args:
        positions: [atoms, 3] Å.
        pairs: Of this molecule alone, at least those within the cutoff.
        cutoff: Å.

    Returns:
        Those that count; a single one with all labels 0 for what hangs together.
    """
    count = len(positions)
    whole = [Parting(1.0, np.zeros((count, 3)), np.zeros(count, np.int64))]
    extent = positions.max(axis=0) - positions.min(axis=0)
    if float(extent @ extent) < (CLOSE * cutoff) ** 2:
        return whole
    vectors = pairs.vectors(positions)
    distances = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    near = distances < CLOSE * cutoff
    if np.bincount(pairs.receivers[near], minlength=1).max() == count - 1:
        return whole  # one atom is near all others, as in most small molecules
    groups, group = _components(pairs.senders[near], pairs.receivers[near], count)
    if groups == 1:
        return whole
    joints = _joints(group, pairs, vectors, distances, cutoff)
    strengths = [1.0] + [joint.strength for joint in joints] + [0.0]
    slopes = [np.zeros((count, 3))] * (len(joints) + 2)
    slopes[1:-1] = [joint.gradient for joint in joints]
    found = []
    label = np.arange(groups)
    for number in range(len(joints) + 1):
        weight = strengths[number] - strengths[number + 1]
        if weight > 0.0:
            change = slopes[number] - slopes[number + 1]
            labels = np.unique(label[group], return_inverse=True)[1].reshape(-1)
            found.append(Parting(weight, change, labels))
        if number < len(joints):
            one, two = joints[number].groups
            label = np.where(label == label[two], label[one], label)
    return found


class _Joint(NamedTuple):
    """What binds two groups of atoms."""

    strength: float
    gradient: Array  # [atoms, 3] 1/Å
    groups: tuple[int, int]


def _components(senders: Array, receivers: Array, count: int) -> tuple[int, Array]:
    """Number of groups of linked atoms, and the group of each atom."""
    # Receivers ascend, so these are the rows of a sparse matrix as they stand.
    starts = np.searchsorted(receivers, np.arange(count + 1)).astype(np.int32)
    ones = np.ones(len(senders), np.int8)
    links = csr_array((ones, senders, starts), shape=(count, count))
    found, labels = connected_components(links, directed=False)
    return int(found), labels


def _joints(
    group: Array, pairs: Pairs, vectors: Array, distances: Array, cutoff: float
) -> list[_Joint]:
    """Those of the maximum spanning tree of the groups, strongest first."""
    between = group[pairs.senders] < group[pairs.receivers]
    chosen = np.flatnonzero(between & (distances < cutoff))
    senders, receivers = pairs.senders[chosen], pairs.receivers[chosen]
    width = (1.0 - CLOSE) * cutoff
    x = np.clip((distances[chosen] - CLOSE * cutoff) / width, 0.0, 1.0)
    loose = x**3 * (10.0 - x * (15.0 - 6.0 * x))  # 1 - s
    slope = 30.0 * x**2 * (1.0 - x) ** 2 / width
    joined: list[_Joint] = []
    ends = np.stack([group[senders], group[receivers]], axis=1)
    for one, two in np.unique(ends, axis=0):
        mine = np.flatnonzero((ends == (one, two)).all(axis=1))
        free = float(np.prod(loose[mine]))
        gradient = np.zeros((len(group), 3))
        for pair in mine.tolist():
            others = np.prod(np.delete(loose[mine], np.flatnonzero(mine == pair)))
            unit = vectors[chosen[pair]] / distances[chosen[pair]]
            force = others * slope[pair] * unit
            gradient[senders[pair]] -= force
            gradient[receivers[pair]] += force
        joined.append(_Joint(1.0 - free, gradient, (int(one), int(two))))
    joined.sort(key=lambda joint: -joint.strength)
    label, tree = np.arange(int(group.max()) + 1), []
    for joint in joined:
        one, two = label[list(joint.groups)]
        if one != two and joint.strength > 0.0:
            label[label == two] = one
            tree.append(joint)
    return tree


def candidate_states(
    numbers: Array, total: ElectronicState, known: Sequence[ElectronicState]
) -> list[ElectronicState]:
    """States that a fragment of a system may be in: of no charge of the other sign.

    A fragment keeps at least one electron: what a network says of a bare nucleus is
    nothing that it was taught.

    Args:
        numbers: Its atomic numbers.
        total: State of the system.
        known: States that the model was trained on.
    """
    low, high = min(total.charge, 0), max(total.charge, 0)
    return [
        state
        for state in known
        if low <= state.charge <= high
        and num_electrons(numbers, state.charge) > 0
        and is_possible(numbers, state)
    ]


def share_out(
    energies: Sequence[Mapping[ElectronicState, float]], total: ElectronicState
) -> list[ElectronicState] | None:
    """The state of each fragment in the lowest way to make up that of the whole.

    Charges add up. Spins couple: S of the whole lies between the largest S of a
    fragment less those of the others and the sum of all.

    Args:
        energies: State -> energy in eV, of each fragment.
        total: State of the system.

    Returns:
        None where no states of the fragments make up that of the whole.
    """
    # What is reached so far by charge, sum of 2S and largest 2S: energy and states.
    reached: dict[tuple[int, int, int], tuple[float, list[ElectronicState]]]
    reached = {(0, 0, 0): (0.0, [])}
    for own in energies:
        further: dict[tuple[int, int, int], tuple[float, list[ElectronicState]]] = {}
        for (charge, spins, largest), (energy, states) in reached.items():
            for state, more in own.items():
                unpaired = state.multiplicity - 1
                key = (
                    charge + state.charge,
                    spins + unpaired,
                    max(largest, unpaired),
                )
                if key not in further or energy + more < further[key][0]:
                    further[key] = energy + more, [*states, state]
        reached = further
    wanted = total.multiplicity - 1
    ways = [
        way
        for (charge, spins, largest), way in reached.items()
        if charge == total.charge
        and 2 * largest - spins <= wanted <= spins
        and (spins - wanted) % 2 == 0
    ]
    return min(ways, key=lambda way: way[0])[1] if ways else None


def apart(
    molecule: Molecules, pairs: Pairs, labels: Array, states: Sequence[ElectronicState]
) -> tuple[Molecules, Pairs, Array]:
    """One molecule as its fragments, each a row in a state of its own.

    Pairs between fragments stay, those of the Coulomb sum and those of atoms that are
    within each other's sight.

    Returns:
        The rows, their pairs, and [atoms] the molecule's atom at each place.
    """
    order = np.argsort(labels, kind="stable")
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    values = {
        name: np.repeat(array, len(states), axis=0)
        for name, array in molecule.values.items()
        if name in ("cell", "pbc")
    }
    values |= {
        "atomic_numbers": molecule.values["atomic_numbers"][order],
        "positions": molecule.values["positions"][order],
        "total_charge": np.array([s.charge for s in states], np.int32),
        "spin_multiplicity": np.array([s.multiplicity for s in states], np.int32),
    }
    rows = Molecules(
        np.bincount(labels).astype(np.int32),
        values,
        np.repeat(molecule.rows, len(states)),
    )
    ascending = np.argsort(place[pairs.receivers], kind="stable")
    return (
        rows,
        Pairs(
            place[pairs.senders[ascending]],
            place[pairs.receivers[ascending]],
            None if pairs.shifts is None else pairs.shifts[ascending],
            place[pairs.long_senders],
            place[pairs.long_receivers],
        ),
        order,
    )


def alone(molecule: Molecules, pairs: Pairs, chosen: Array) -> tuple[Molecules, Pairs]:
    """Some atoms of one open molecule, without the others.

    Args:
        molecule: All of it.
        pairs: All of them.
        chosen: [atoms] bool.
    """
    place = (np.cumsum(chosen) - 1).astype(np.int32)

    def among(senders: Array, receivers: Array) -> tuple[Array, Array]:
        both = chosen[senders] & chosen[receivers]
        return place[senders[both]], place[receivers[both]]

    part = Molecules(
        np.array([chosen.sum()], np.int32),
        {
            name: array[chosen] if name in ("atomic_numbers", "positions") else array
            for name, array in molecule.values.items()
        },
        molecule.rows,
    )
    long = among(pairs.long_senders, pairs.long_receivers)
    return part, Pairs(*among(pairs.senders, pairs.receivers), None, *long)
