"""Short-range nuclear repulsion."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from physnet_ase.config import ModelConfig
from physnet_ase.network.radial import smooth_cutoff
from physnet_ase.physics.surroundings import Surroundings
from physnet_ase.sums import owner_sum
from physnet_ase.units import BOHR, COULOMB_CONSTANT

_AMPLITUDES = (0.18175, 0.50986, 0.28022, 0.02817)
_EXPONENTS = (3.19980, 0.94229, 0.40290, 0.20162)


def zbl_energy(
    distance: Float[Array, " pairs"],
    number_i: Int[Array, " pairs"],
    number_j: Int[Array, " pairs"],
    cutoff: float,
) -> Float[Array, " pairs"]:
    """Ziegler-Biersack-Littmark screened repulsion of a pair in eV, always positive.

    E = k Z_i Z_j / r · Σ a_n exp(-b_n r/a), a = 0.8854 a₀ / (Z_i^0.23 + Z_j^0.23)
    (Ziegler, Biersack, Littmark 1985), times the smooth cutoff so that it ends at r_c.

    Args:
        distance: Å, positive.
        number_i: Atomic number of one atom.
        number_j: Atomic number of the other.
        cutoff: r_c in Å.
    """
    dtype = distance.dtype
    z_i, z_j = number_i.astype(dtype), number_j.astype(dtype)
    length = 0.8854 * BOHR / (z_i**0.23 + z_j**0.23)
    reduced = distance / length
    screening = sum(
        a * jnp.exp(-b * reduced) for a, b in zip(_AMPLITUDES, _EXPONENTS, strict=True)
    )
    return (
        COULOMB_CONSTANT
        * z_i
        * z_j
        / distance
        * screening
        * smooth_cutoff(distance, cutoff)
    )


def repulsion_energies(
    config: ModelConfig, around: Surroundings
) -> Float[Array, " atoms"]:
    """ZBL energy of each atom in eV, half of each of its pairs."""
    graph = around.graph
    numbers = jnp.maximum(graph.atomic_numbers, 1)
    pair = 0.5 * zbl_energy(
        around.distances,
        numbers[graph.senders],
        numbers[graph.receivers],
        config.cutoff,
    )
    pair = jnp.where(graph.pair_mask, pair, 0.0)
    return owner_sum(pair, graph.receivers, around.charges.shape[0])
