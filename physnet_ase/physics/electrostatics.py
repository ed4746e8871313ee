"""Charges that sum to the total charge, and their damped Coulomb energy."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph
from physnet_ase.network.radial import smooth_cutoff
from physnet_ase.physics.ewald import ewald_pair_potential, reciprocal_energies
from physnet_ase.physics.surroundings import Surroundings
from physnet_ase.sums import molecule_sum
from physnet_ase.units import COULOMB_CONSTANT


def shift_to_total(
    values: Float[Array, " atoms"], total: Num[Array, " molecules"], graph: Graph
) -> Float[Array, " atoms"]:
    """Spread the missing amount evenly so that a molecule's values sum to ``total``.

    q_i ← q_i - (Σq - Q)/N (Unke & Meuwly 2019).
    """
    mask = graph.atom_mask.astype(values.dtype)
    count = jnp.maximum(molecule_sum(mask, graph), 1.0)
    missing = total.astype(values.dtype) - molecule_sum(values * mask, graph)
    missing = missing / count
    return (values + missing[graph.molecule_index]) * mask


def damped_inverse(
    distance: Float[Array, " pairs"], cutoff: float
) -> Float[Array, " pairs"]:
    """1/r, damped to 1/sqrt(r² + 1) at short range (Unke & Meuwly 2019).

    The exact law holds beyond half the cutoff; below it φ(2r) mixes in the damped
    form, which is finite at r = 0. Result in 1/Å, ``distance`` in Å and positive.
    """
    mix = smooth_cutoff(2.0 * distance, cutoff)
    return mix / jnp.sqrt(distance**2 + 1.0) + (1.0 - mix) / distance


def coulomb_energies(
    charges: Float[Array, " atoms"],
    inverse: Float[Array, " pairs"],
    senders: Int[Array, " pairs"],
    receivers: Int[Array, " pairs"],
) -> Float[Array, " atoms"]:
    """k q_i q_j f(r_ij) in eV, half to each atom, summed over the pairs given."""
    half = 0.5 * COULOMB_CONSTANT * charges[senders] * charges[receivers] * inverse
    energies = jnp.zeros_like(charges)
    return energies.at[senders].add(half).at[receivers].add(half)


def electrostatic_energies(
    config: ModelConfig, around: Surroundings
) -> Float[Array, " atoms"]:
    """Coulomb energy of the predicted charges in eV.

    All pairs of open molecules; Ewald's sum in periodic cells, damped at short range as
    in open ones.
    """
    graph, cutoff = around.graph, config.cutoff
    inverse = damped_inverse(around.long_distances, cutoff)
    inverse = jnp.where(graph.long_pair_mask, inverse, 0.0)
    energies = coulomb_energies(
        around.charges, inverse, graph.long_senders, graph.long_receivers
    )
    if graph.mesh.size == 0:
        return energies  # no periodic molecule
    periodic = graph.periodic[graph.molecule_index][graph.receivers]
    r = around.distances
    damping = damped_inverse(r, cutoff) - 1.0 / r
    pair = 0.5 * (ewald_pair_potential(r, cutoff) + damping)  # listed both ways
    energies = energies + coulomb_energies(
        around.charges,
        jnp.where(graph.pair_mask & periodic, pair, 0.0),
        graph.senders,
        graph.receivers,
    )
    return energies + reciprocal_energies(around.charges, graph, cutoff)
