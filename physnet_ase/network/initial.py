"""Initial weights of a network, and the shapes of all its weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph
from physnet_ase.network import make_network

Params = Any
"""A nested dict of arrays as flax makes it."""

OUTPUT_SIZES = np.array([1.0, 0.2, 0.2], np.float32)
"""Typical atomic energy (eV), charge (e) and spin population that outputs get."""


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights of a configuration, by path; nothing is computed."""

    def whole(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    def real(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def flag(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.bool_)

    graph = Graph(
        atomic_numbers=whole(2),
        positions=real(2, 3),
        molecule_index=whole(2),
        atom_mask=flag(2),
        senders=whole(2),
        receivers=whole(2),
        shifts=real(2, 3),
        pair_mask=flag(2),
        long_senders=whole(1),
        long_receivers=whole(1),
        long_pair_mask=flag(1),
        total_charge=whole(1),
        spin_multiplicity=whole(1),
        molecule_mask=flag(1),
        periodic=flag(1),
        cell=real(1, 3, 3),
        mesh=whole(0, 0, 0),
    )
    # An abstract key: making a real one would compile programs.
    key = jax.eval_shape(lambda: jax.random.key(0))
    init = make_network(config).init
    shapes = jax.eval_shape(init, key, graph, real(2), real(2, 3))["params"]
    return {"/".join(path): leaf.shape for path, leaf in flatten_dict(shapes).items()}


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
    network = make_network(config)
    constants = jax.jit(lambda key: network.init(key, *inputs)["params"])
    params = _draw(jax.device_get(constants(jax.random.key(0))), seed)
    output = jax.jit(lambda p: network.apply({"params": p}, *inputs))(params)
    raw = np.stack([output.energies, output.charges, output.spin_populations])
    size = np.sqrt(np.mean(raw[:, graph.atom_mask] ** 2, axis=1))
    scale = OUTPUT_SIZES / np.maximum(size, 1e-6)
    shape = params["scale"].shape
    params["scale"] = np.broadcast_to(scale[: shape[1]], shape).copy()
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


def starting_parameters(params: Params, energy_scale: float) -> Params:
    """PhysNet's start: output heads and second residual layers at zero.

    The network then begins at the references, and every residual block as the identity.
    ``energy_scale`` (eV) is the size that one unit of the energy head has.
    """

    def clear(path: Any, leaf: np.ndarray) -> np.ndarray:
        names = [entry.key for entry in path]
        zero = "head" in names or (names[-2:] == ["residual", "kernel"])
        return np.zeros_like(leaf) if zero else leaf

    cleared = dict(jax.tree_util.tree_map_with_path(clear, params))
    scale = np.ones_like(cleared["scale"])
    scale[:, 0] = energy_scale
    cleared["scale"] = scale
    return cleared
