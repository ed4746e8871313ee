"""Per-atom terms of a graph: what the network gives, and the physics around it."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph
from physnet_ase.network.physnet import NetworkOutput, PhysNet
from physnet_ase.physics.electrostatics import (
    coulomb_energies,
    damped_inverse,
    shift_to_total,
    shifted_inverse,
)
from physnet_ase.physics.repulsion import zbl_energy

Params = Any
"""A nested dict of arrays as flax makes it."""


class AtomicTerms(NamedTuple):
    """Per-atom results; padded atoms hold zeros. Energies without references."""

    energies: Float[Array, " atoms"]  # eV
    charges: Float[Array, " atoms"]  # e, sum to the total charge
    spin_populations: Float[Array, " atoms"]  # electrons, sum to 2S
    features: Float[Array, "atoms features"]
    nonhierarchicality: Float[Array, " atoms"]


def pair_vectors(
    graph: Graph, positions: Float[Array, "atoms 3"], shifts: Float[Array, "pairs 3"]
) -> tuple[Float[Array, "pairs 3"], Float[Array, "long_pairs 3"]]:
    """Vectors receiver → sender of the short-range and of the long pairs, in Å."""
    short = positions[graph.senders] + shifts - positions[graph.receivers]
    long = positions[graph.long_senders] - positions[graph.long_receivers]
    return short, long


def _safe_length(
    vectors: Float[Array, "n 3"], mask: Bool[Array, " n"], far: float
) -> tuple[Float[Array, " n"], Float[Array, "n 3"]]:
    """Lengths with masked rows, and exact coincidences, moved to a safe distance."""
    usable = mask & (jnp.sum(vectors**2, axis=1) > 0.0)
    safe = jnp.where(
        usable[:, None], vectors, jnp.asarray([far, 0.0, 0.0], vectors.dtype)
    )
    return jnp.sqrt(jnp.sum(safe**2, axis=1)), safe


def atomic_terms(
    config: ModelConfig,
    params: Params,
    graph: Graph,
    displacements: Float[Array, "pairs 3"],
    long_displacements: Float[Array, "long_pairs 3"],
) -> AtomicTerms:
    """Network and physics of a graph whose pair vectors are given (eV, Å, e).

    Positions are not read, so callers with their own displacement function (jax-md)
    differentiate through the vectors they pass.
    """
    cutoff = config.cutoff
    graph = jax.tree.map(jnp.asarray, graph._replace(labels=None))
    distances, safe = _safe_length(displacements, graph.pair_mask, cutoff)
    output = PhysNet(config).apply(
        {"params": params}, graph, distances, safe / distances[:, None]
    )
    network = cast("NetworkOutput", output)
    charges = shift_to_total(network.charges, graph.total_charge, graph)
    spins = shift_to_total(network.spin_populations, graph.spin_multiplicity - 1, graph)
    energies = network.energies
    if config.electrostatics:
        long, _ = _safe_length(long_displacements, graph.long_pair_mask, cutoff)
        inverse = jnp.where(graph.long_pair_mask, damped_inverse(long, cutoff), 0.0)
        energies = energies + coulomb_energies(
            charges, inverse, graph.long_senders, graph.long_receivers
        )
        periodic = graph.periodic[graph.molecule_index][graph.receivers]
        inverse = jnp.where(
            graph.pair_mask & periodic, 0.5 * shifted_inverse(distances, cutoff), 0.0
        )
        energies = energies + coulomb_energies(
            charges, inverse, graph.senders, graph.receivers
        )
    if config.zbl:
        numbers = jnp.maximum(graph.atomic_numbers, 1)
        pair = 0.5 * zbl_energy(
            distances, numbers[graph.senders], numbers[graph.receivers], cutoff
        )
        energies = energies + jax.ops.segment_sum(
            jnp.where(graph.pair_mask, pair, 0.0),
            graph.receivers,
            energies.shape[0],
            indices_are_sorted=True,
        )
    return AtomicTerms(
        energies, charges, spins, network.features, network.nonhierarchicality
    )


def molecule_energies(
    config: ModelConfig,
    params: Params,
    graph: Graph,
    positions: Float[Array, "atoms 3"],
    strain: Float[Array, "molecules 3 3"] | None = None,
) -> tuple[Float[Array, ""], AtomicTerms]:
    """Sum of all energies of a graph, and its terms, as a function of positions."""
    shifts = jnp.asarray(graph.shifts, positions.dtype)
    if strain is not None:
        symmetric = 0.5 * (strain + jnp.swapaxes(strain, 1, 2))
        per_atom = symmetric[graph.molecule_index]
        positions = positions + jnp.einsum("ni,nij->nj", positions, per_atom)
        shifts = shifts + jnp.einsum("ni,nij->nj", shifts, per_atom[graph.receivers])
    vectors = pair_vectors(graph, positions, shifts)
    terms = atomic_terms(config, params, graph, *vectors)
    return jnp.sum(terms.energies), terms
