"""Do energies, forces and positions belong together? Differences between geometries."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ase.data import atomic_masses, covalent_radii
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules

Array = NDArray[Any]

_NEAR = 0.15  # Å; beyond this the trapezoidal rule fails: 0.3 Å already costs a quarter
_APART = 0.005  # Å; closer geometries differ in energy by rounding only
_PAIRS_PER_GROUP = 200
_MIN_FRAMES = 5  # of one molecule, to know the mean lengths of its bonds
_MIN_BONDS = 20  # bond lengths seen; fewer say nothing
_BONDED = 1.3  # times the covalent radii, in the first geometry
_MOST_FRAMES = 3000  # looked at, in runs of neighbours
_MOST_ALIKE = 500  # molecules whose bonds to hydrogen are compared
_LARGEST = 300  # atoms of one molecule, all pairs of which are looked at
_COINCIDENT = 1e-3  # Å; atoms that close have no bond, and no division by zero
_MOVED = 0.003  # Å; bonds that vary less are relaxed or rigid


class Changes(NamedTuple):
    """Pairs of similar geometries of one molecule in one state.

    Attributes:
        energies: [pairs] difference of the energies, eV.
        work: [pairs] the same by the forces along the way, eV.
        stiffness: [groups] mean squared force over energy spread, eV/Å².
    """

    energies: Array
    work: Array
    stiffness: Array


def find_changes(samples: list[Molecules]) -> Changes:
    """Compare geometries that follow each other in the data.

    ΔE = −∫F·dx, by the trapezoidal rule: exact for a harmonic potential however far
    the geometries are apart. One is turned onto the other first (W. Kabsch, Acta
    Cryst. A 32, 922 (1976)). Periodic structures are compared as they are.

    Stiffness is Σ⟨F²⟩ / sqrt(2 d Var E) with d the number of coordinates: the mean
    force constant, if the geometries are from a thermal ensemble of an oscillator.

    Args:
        samples: Molecules; energies and forces that are missing are left out.
    """
    groups: dict[bytes, list[tuple[Molecules, int]]] = {}
    for batch in samples:
        for index, key in _keys(batch):
            groups.setdefault(key, []).append((batch, index))
    energies, work, stiffness = [], [], []
    for members in groups.values():
        if len(members) < 2:
            continue
        some = members[: _PAIRS_PER_GROUP + 1]
        energy, positions, forces = _gather(some)
        if len(some) >= 10 and energy.std() > 1e-4:
            spread = np.sqrt(2 * forces[0].size) * energy.std()
            stiffness.append(float((forces**2).sum(axis=(1, 2)).mean() / spread))
        if some[0][0].values["pbc"][some[0][1]].any():
            turned, turned_forces = positions[1:], forces[1:]
        else:
            turned, turned_forces = _superpose(positions, forces)
        steps = turned - positions[:-1]
        distance = np.sqrt((steps**2).sum(axis=2).mean(axis=1))
        useful = (distance < _NEAR) & (distance > _APART)
        mean = 0.5 * (forces[:-1] + turned_forces)
        work.append(-(mean * steps).sum(axis=(1, 2))[useful])
        energies.append(np.diff(energy)[useful])
    none = [np.zeros(0)]
    return Changes(
        np.concatenate(energies or none),
        np.concatenate(work or none),
        np.array(stiffness),
    )


def _keys(batch: Molecules) -> list[tuple[int, bytes]]:
    """Usable molecules, with what those of one group have in common."""
    finite = np.isfinite(batch.values["forces"]).all(axis=1)
    usable = np.logical_and.reduceat(finite, batch.first_atom) & (batch.n_atoms > 1)
    usable &= np.isfinite(batch.values["energy"])
    numbers = batch.values["atomic_numbers"]
    state = np.stack(
        [
            batch.values["total_charge"],
            batch.values["spin_multiplicity"],
            batch.values["level"],
        ],
        axis=1,
    )
    keys = []
    for index in np.flatnonzero(usable).tolist():
        begin = batch.first_atom[index]
        atoms = numbers[begin : begin + batch.n_atoms[index]]
        keys.append((index, atoms.tobytes() + state[index].tobytes()))
    return keys


def _gather(members: list[tuple[Molecules, int]]) -> tuple[Array, Array, Array]:
    """Energies [n], centred positions and forces [n, atoms, 3] of one group."""
    energies, positions, forces = [], [], []
    for batch, index in members:
        begin = batch.first_atom[index]
        atoms = slice(begin, begin + batch.n_atoms[index])
        energies.append(batch.values["energy"][index])
        positions.append(batch.values["positions"][atoms])
        forces.append(batch.values["forces"][atoms])
    points = np.array(positions, dtype=np.float64)
    if not members[0][0].values["pbc"][members[0][1]].any():
        points -= points.mean(axis=1, keepdims=True)
    return np.array(energies), points, np.array(forces, dtype=np.float64)


def _superpose(positions: Array, forces: Array) -> tuple[Array, Array]:
    """Each geometry after the first, turned onto the one before, with its forces."""
    onto, moved = positions[:-1], positions[1:]
    left, _, right = np.linalg.svd(np.einsum("pni,pnj->pij", moved, onto))
    # Without this a mirror image would count as a rotation.
    left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
    rotation = left @ right
    return moved @ rotation, forces[1:] @ rotation


@dataclass(frozen=True)
class BondForces:
    """How forces answer when bonds are longer or shorter than on average.

    Attributes:
        correlation: Of extensions with the forces that open bonds, -1 to 1; bonds that
            pull back, as all bonds do, are negative.
        stiffness: eV/Å², how much force per extension.
    """

    correlation: float
    stiffness: float


def bond_forces(samples: list[Molecules]) -> BondForces | None:
    """Compare bond lengths with the forces along the bonds; None without enough bonds.

    Needs neither energies nor geometries that are close to each other. A bond is
    compared with the same bond in other geometries of its molecule; where there are
    too few of these, bonds to hydrogen with others of the same two elements.

    Args:
        samples: Molecules; those whose forces are missing are left out.
    """
    frames: dict[bytes, list[Array]] = {}
    step = -(-sum(map(len, samples)) // _MOST_FRAMES)
    for batch in samples[::step]:
        owned = np.concatenate(
            [
                batch.values["atomic_numbers"][:, None],
                batch.values["positions"],
                batch.values["forces"],
            ],
            axis=1,
        ).astype(np.float64)
        states = np.stack(
            [batch.values["total_charge"], batch.values["spin_multiplicity"]], axis=1
        )
        starts = batch.first_atom.tolist()
        for index, size in enumerate(batch.n_atoms.tolist()):
            first = starts[index]
            molecule, state = owned[first : first + size], states[index].tobytes()
            if 1 < size <= _LARGEST and np.isfinite(molecule).all():
                known = frames.setdefault(molecule[:, 0].tobytes() + state, [])
                if len(known) < _PAIRS_PER_GROUP:
                    known.append(molecule)
    same: list[tuple[Array, Array]] = []
    for group in frames.values():
        if len(group) >= _MIN_FRAMES:
            _, lengths, forces = _bonds(np.array(group))
            same += zip(lengths.T, forces.T, strict=True)
    answer = _answer(same)
    if answer is not None:
        return answer
    alike: dict[int, list[tuple[Array, Array]]] = {}
    for group in list(frames.values())[:_MOST_ALIKE]:
        heavier, lengths, forces = _bonds(np.array(group))
        for number, length, force in zip(heavier, lengths.T, forces.T, strict=True):
            alike.setdefault(number, []).append((length, force))
    pooled = [
        (np.concatenate([b[0] for b in bonds]), np.concatenate([b[1] for b in bonds]))
        for number, bonds in alike.items()
        if number
    ]
    return _answer(pooled)


def _bonds(group: Array) -> tuple[list[int], Array, Array]:
    """Bonds of one molecule in several geometries.

    Args:
        group: [frames, atoms, 7] element, position and force.

    Returns:
        For each bond the element bound to hydrogen, 0 where there is no hydrogen;
        [frames, bonds] lengths in Å; [frames, bonds] force that opens it in eV/Å.
    """
    numbers, points = group[0, :, 0].astype(int), group[..., 1:4]
    radii = covalent_radii[numbers]
    one, other = np.triu_indices(len(numbers), 1)
    reach = _BONDED * (radii[one] + radii[other])
    near = np.linalg.norm(points[0, one] - points[0, other], axis=1) < reach
    one, other = one[near], other[near]
    vectors = points[:, one] - points[:, other]
    lengths = np.linalg.norm(vectors, axis=2)
    # The light atom shows best what a bond does: relative acceleration, reduced mass.
    masses = atomic_masses[numbers]
    share = (masses[other] / (masses[one] + masses[other]))[:, None]
    forces = share * group[:, one, 4:] - (1 - share) * group[:, other, 4:]
    opening = (forces * vectors).sum(axis=2) / np.maximum(lengths, _COINCIDENT)
    pairs = zip(numbers[one].tolist(), numbers[other].tolist(), strict=True)
    heavier = [max(pair) if min(pair) == 1 < max(pair) else 0 for pair in pairs]
    return heavier, lengths, opening


def _answer(bonds: list[tuple[Array, Array]]) -> BondForces | None:
    """Medians over the bonds that vary; None where there are too few."""
    correlations, stiffness, seen = [], [], 0
    for lengths, forces in bonds:
        extension, opening = lengths - lengths.mean(), forces - forces.mean()
        if (
            len(lengths) >= _MIN_FRAMES
            and extension.std() > _MOVED
            and opening.std() > 0
        ):
            stiffness.append(-(extension @ opening) / (extension @ extension))
            correlations.append(np.corrcoef(extension, opening)[0, 1])
            seen += len(lengths)
    if seen < _MIN_BONDS:
        return None
    return BondForces(float(np.median(correlations)), float(np.median(stiffness)))
