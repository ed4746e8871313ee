"""A potential with random weights, for tests and benchmarks."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ase.data import chemical_symbols

from physnet_ase.checkpoint import ModelMetadata, StateRecord
from physnet_ase.config import ModelConfig, resolve_config
from physnet_ase.graph import Graph, build_graph, centred
from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import find_pairs
from physnet_ase.network.initial import initial_parameters
from physnet_ase.potential import Potential
from physnet_ase.state import ElectronicState, as_state


def _filled(leaf: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Small random numbers for biases and shifts, so that a test would miss none."""
    if leaf.any():
        return leaf
    return rng.normal(scale=0.05, size=leaf.shape).astype(np.float32)


def random_molecules(
    elements: Sequence[int], states: Sequence[ElectronicState], seed: int
) -> Graph:
    """Eight random open molecules, all states in turn, as one graph."""
    rng = np.random.default_rng(seed)
    numbers, positions = [], []
    for _ in range(8):
        numbers.append(rng.choice(np.asarray(elements, np.int32), size=6))
        grid = np.array([[i, j, 0.0] for i in range(3) for j in range(2)])
        positions.append(1.4 * grid + rng.normal(scale=0.2, size=(6, 3)))
    chosen = [states[i % len(states)] for i in range(8)]
    molecules = Molecules(
        np.full(8, 6, np.int32),
        {
            "atomic_numbers": np.concatenate(numbers),
            "positions": np.concatenate(positions),
            "total_charge": np.array([s.charge for s in chosen], np.int32),
            "spin_multiplicity": np.array([s.multiplicity for s in chosen], np.int32),
        },
        np.arange(8),
    )
    return build_graph(centred(molecules), find_pairs(molecules, 10.0))


def untrained_potential(
    config: "ModelConfig | str" = "paper",
    elements: Sequence[int] = (1, 6, 7, 8),
    states: Sequence[Any] = ((0, 1), (1, 2), (-1, 2), (0, 3)),
    seed: int = 0,
) -> Potential:
    """Return a potential with random weights for tests and benchmarks.

    No weight or bias is zero, outputs are scaled to about 1 eV per atom, and every
    state has another energy. References are zero.

    Args:
        config: A preset's name or a configuration.
        elements: Atomic numbers it accepts.
        states: States it accepts, as ``ElectronicState`` or (charge, multiplicity).
        seed: Same seed, same weights.

    Raises:
        ValueError: Unknown preset, or a state outside the configuration's ranges.
    """
    config = resolve_config(config)
    checked = [as_state(state) for state in states]
    for state in checked:
        charges, spins = config.charge_range, config.spin_range
        if not (
            charges[0] <= state.charge <= charges[1]
            and spins[0] <= state.multiplicity <= spins[1]
        ):
            raise ValueError(
                f"{state} lies outside charge_range {charges} or spin_range {spins}"
            )
    params = initial_parameters(config, random_molecules(elements, checked, seed), seed)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: _filled(leaf, rng), params)
    metadata = ModelMetadata(
        name="untrained",
        description="random weights, for tests and benchmarks",
        config=config,
        element_energies={chemical_symbols[z]: 0.0 for z in elements},
        states=[
            StateRecord(charge=s.charge, multiplicity=s.multiplicity) for s in checked
        ],
    )
    return Potential(metadata, params)
