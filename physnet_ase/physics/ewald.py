"""Coulomb energy of periodic cells by Ewald's sum, with the kernels of jax-pme.

A charged cell gets the uniform neutralising background, as in electronic-structure
codes: energies of cells in different charge states then differ by an image term that
falls off as one over the length of the cell.
"""

import jax
import jax.numpy as jnp
from jaxpme.kspace import get_reciprocal
from jaxpme.potentials import coulomb
from jaxtyping import Array, Float

from physnet_ase.graph import Graph
from physnet_ase.reciprocal import ewald_smearing
from physnet_ase.units import COULOMB_CONSTANT

_KERNEL = coulomb()


def ewald_pair_potential(
    distance: Float[Array, " pairs"], cutoff: float
) -> Float[Array, " pairs"]:
    """erfc(r/√2σ)/r in 1/Å, shifted so that value and slope vanish at the cutoff.

    What the shift takes away is below 1e-7/Å with the smearing chosen here.
    """
    smearing = ewald_smearing(cutoff)

    def screened(r: jax.Array) -> jax.Array:
        return _KERNEL.sr_r(smearing, r)

    end = jnp.asarray(cutoff, distance.dtype)
    value, slope = jax.value_and_grad(screened)(end)
    shifted = screened(distance) - value - slope * (distance - end)
    return jnp.where(distance < cutoff, shifted, 0.0)


def reciprocal_energies(
    charges: Float[Array, " atoms"], graph: Graph, cutoff: float
) -> Float[Array, " atoms"]:
    """k-space, self and background terms of each periodic molecule's atoms, in eV.

    Args:
        charges: e.
        graph: Its positions, cells and k-vectors (multiples of the reciprocal lattice
            vectors, one of each pair ±k, zeros for padding).
        cutoff: Å, which fixes the smearing.
    """
    dtype, owner = charges.dtype, graph.molecule_index
    num_molecules = graph.total_charge.shape[0]
    smearing = jnp.asarray(ewald_smearing(cutoff), dtype)
    periodic = graph.periodic
    cell = jnp.where(periodic[:, None, None], graph.cell, jnp.eye(3, dtype=dtype))
    volume = jnp.abs(jnp.linalg.det(cell))
    lattice = jax.vmap(get_reciprocal)(cell)
    vectors = jnp.einsum("mkn,mnx->mkx", graph.k_vectors.astype(dtype), lattice)
    squared = jnp.sum(vectors**2, axis=2)
    real = (squared > 0.0) & periodic[:, None]
    weight = _KERNEL.lr_k2(smearing, jnp.where(real, squared, 1.0))
    weight = jnp.where(real, 2.0 * weight, 0.0) / volume[:, None]  # ±k

    def molecule_sum(values: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(
            values, owner, num_molecules, indices_are_sorted=True
        )

    phases = jnp.einsum("akx,ax->ak", vectors[owner], graph.positions)
    cosines, sines = jnp.cos(phases), jnp.sin(phases)
    density = molecule_sum(charges[:, None] * cosines)
    other = molecule_sum(charges[:, None] * sines)
    potential = jnp.sum(
        cosines * (weight * density)[owner] + sines * (weight * other)[owner], axis=1
    )
    total = molecule_sum(charges)
    background = 2.0 * _KERNEL.correction_background(smearing) * total / volume
    potential = potential - _KERNEL.correction_self(smearing) * charges
    potential = potential - background[owner]
    energies = 0.5 * COULOMB_CONSTANT * charges * potential
    return jnp.where(periodic[owner], energies, 0.0)
