"""A potential with random weights, for tests and benchmarks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from flax.traverse_util import flatten_dict, unflatten_dict

from physnet_ase.config import ModelConfig, resolve_config
from physnet_ase.graph import Graph
from physnet_ase.metadata import ModelMetadata, StateRecord
from physnet_ase.neighbors import Structure, build_graph, find_pairs
from physnet_ase.network.physnet import PhysNet
from physnet_ase.potential import Potential
from physnet_ase.state import as_state
from physnet_ase.terms import Params

OUTPUT_SIZES = np.array([1.0, 0.2, 0.2], np.float32)
"""Typical atomic energy (eV), charge (e) and spin population that outputs get."""


def initial_parameters(config: ModelConfig, graph: Graph, seed: int) -> Params:
    """Random float32 parameters, outputs scaled to :data:`OUTPUT_SIZES` on ``graph``.

    Kernels are semi-orthogonal with Glorot's variance, embeddings uniform in ±√3 as in
    PhysNet. No layer starts at zero; a trainer that wants zero outputs clears them.
    """
    graph = graph._replace(
        positions=graph.positions.astype(np.float32),
        shifts=graph.shifts.astype(np.float32),
    )
    vectors, far = graph.positions[graph.senders] + graph.shifts, config.cutoff
    vectors = vectors - graph.positions[graph.receivers]
    vectors = np.where(graph.pair_mask[:, None], vectors, np.float32(far))
    distances = np.linalg.norm(vectors, axis=1)
    directions = vectors / distances[:, None]
    inputs = jax.tree.map(jnp.asarray, (graph, distances, directions))
    network = PhysNet(config)
    constants = jax.jit(lambda key: network.init(key, *inputs)["params"])
    params = _draw(jax.device_get(constants(jax.random.key(0))), seed)
    output = jax.jit(lambda p: network.apply({"params": p}, *inputs))(params)
    raw = np.stack([output.energies, output.charges, output.spin_populations])
    size = np.sqrt(np.mean(raw[:, graph.atom_mask] ** 2, axis=1))
    scale = OUTPUT_SIZES / np.maximum(size, 1e-6)
    params["scale"] = np.broadcast_to(scale, params["scale"].shape).copy()
    return params


def _draw(constants: Params, seed: int) -> Params:
    """Random values for kernels and embeddings; the rest stays as flax made it."""
    rng = np.random.default_rng(seed)
    flat = flatten_dict(constants)
    kernels: dict[tuple[int, int], list[tuple[str, ...]]] = {}
    for key in sorted(flat):
        leaf = np.asarray(flat[key], np.float32)
        if key[-1] == "embedding":
            leaf = rng.uniform(-(3**0.5), 3**0.5, size=leaf.shape).astype(np.float32)
        elif key[-1] == "kernel":
            kernels.setdefault(leaf.shape, []).append(key)
        flat[key] = leaf
    for shape, keys in kernels.items():
        short, long = sorted(shape)
        stack = _orthonormal_rows(rng.normal(size=(len(keys), short, long)))
        # from variance 1/long, that of orthonormal rows, to Glorot's 2/(short + long)
        stack *= np.sqrt(2 * long / (short + long))
        for key, rows in zip(keys, stack, strict=True):
            kernel = rows if rows.shape == shape else rows.T
            flat[key] = np.ascontiguousarray(kernel, np.float32)
    return unflatten_dict(flat)


def _orthonormal_rows(stack: np.ndarray) -> np.ndarray:
    """Modified Gram-Schmidt on every matrix of ``stack`` [matrices, rows, columns].

    LAPACK would do the same, but its threads wait for each other on a busy machine:
    twenty seconds for the matrices of "paper" instead of half a second.
    """
    for row in range(stack.shape[1]):
        unit = stack[:, row]
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        rest = stack[:, row + 1 :]
        overlap = np.einsum("mrc,mc->mr", rest, unit)
        rest -= overlap[:, :, None] * unit[:, None, :]
    return stack


def _filled(leaf: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Small random numbers for biases and shifts, so that a test would miss none."""
    if leaf.any():
        return leaf
    return rng.normal(scale=0.05, size=leaf.shape).astype(np.float32)


def random_molecules(
    elements: Sequence[int], states: Sequence[Any], seed: int
) -> Graph:
    """Eight random open molecules, all states in turn, as one graph."""
    rng = np.random.default_rng(seed)
    structures = []
    for _ in range(8):
        numbers = rng.choice(np.asarray(elements, np.int32), size=6)
        grid = np.array([[i, j, 0.0] for i in range(3) for j in range(2)])
        positions = 1.4 * grid + rng.normal(scale=0.2, size=(6, 3))
        structures.append(
            Structure(numbers, positions, np.zeros((3, 3)), np.zeros(3, bool))
        )
    chosen = [as_state(states[i % len(states)]) for i in range(8)]
    return build_graph(structures, chosen, [find_pairs(s, 10.0) for s in structures])


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
