"""Structures, and numerical derivatives, that several test files share."""

from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule

from physnet_ase.config import ModelConfig


def formaldehyde(**info: Any) -> Atoms:
    """A molecule without symmetry, away from the origin; its electron count is even."""
    atoms = molecule("H2CO")
    atoms.rattle(0.1, seed=3)
    atoms.positions += [0.3, -0.2, 0.5]
    atoms.info.update(info)
    return atoms


def thin_cell(first_length: float = 2.9) -> Atoms:
    """A cation of three atoms in a triclinic cell thinner than the cutoff."""
    return Atoms(
        "COH",
        positions=[[0.1, 0.2, 0.3], [1.4, 0.5, 0.1], [0.2, 1.6, 1.9]],
        cell=[[first_length, 0.0, 0.0], [0.4, 3.3, 0.0], [-0.3, 0.6, 3.8]],
        pbc=True,
        info={"charge": 1, "spin_multiplicity": 1},
    )


def rotation(rng: np.random.Generator) -> np.ndarray:
    """A proper rotation."""
    matrix = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return matrix * np.linalg.det(matrix)


def displaced(atoms: Atoms, step: float) -> list[Atoms]:
    """Copies with every coordinate moved by +step, then by -step."""
    copies = []
    for index in range(3 * len(atoms)):
        for sign in (1, -1):
            copy = atoms.copy()
            copy.positions[divmod(index, 3)] += sign * step
            copies.append(copy)
    return copies


def central_differences(values: Any, step: float) -> np.ndarray:
    """Derivatives from values at +step, -step, +step, … of each coordinate."""
    values = np.asarray(values)
    return (values[0::2] - values[1::2]) / (2 * step)


TINY = ModelConfig(
    num_features=4,
    num_radial=4,
    num_blocks=1,
    num_residual_atomic=0,
    num_residual_interaction=0,
    num_residual_output=0,
    electrostatics=False,
    cutoff=8.0,
    spin_range=(1, 2),
    charge_range=(-1, 1),
)
"""A network that compiles and trains within seconds."""
TINY_STATES = [(-1, 1), (-1, 2), (0, 1), (0, 2)]
"""What it is asked for."""
