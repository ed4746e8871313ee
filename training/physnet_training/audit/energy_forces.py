"""Do energies, forces and positions belong together? Differences between geometries."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules

Array = NDArray[Any]

_NEAR = 0.15  # Å; beyond this the trapezoidal rule fails: 0.3 Å already costs a quarter
_APART = 0.005  # Å; closer geometries differ in energy by rounding only
_PAIRS_PER_GROUP = 200


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
