"""Coulomb energy of periodic cells by Ewald's sum, with kernels and mesh of jax-pme.

A charged cell gets the uniform neutralising background, as in electronic-structure
codes: energies of cells in different charge states then differ by an image term that
falls off as one over the length of the cell.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxpme.kspace import get_reciprocal
from jaxpme.mesh import bspline
from jaxpme.potentials import coulomb
from jaxtyping import Array, Float

from physnet_ase.graph import Graph
from physnet_ase.reciprocal import ewald_smearing
from physnet_ase.sums import molecule_sum
from physnet_ase.units import COULOMB_CONSTANT

_KERNEL = coulomb()
_SPLINE = 5
"""Mesh points along each axis that share a charge."""
_ASSIGN, _SPREAD, _GATHER = bspline(_SPLINE)


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

    P3M: charges are spread over a mesh by B-splines, with one Fourier transform each
    way, and energies are differentiated as they are computed (Hockney & Eastwood,
    Computer Simulation Using Particles, 1988; the optimal influence function without
    its sums over aliases).

    Args:
        charges: e.
        graph: Its positions, cells and the shape of its mesh.
        cutoff: Å, which fixes the smearing.
    """
    dtype, owner = charges.dtype, graph.molecule_index
    smearing = jnp.asarray(ewald_smearing(cutoff), dtype)
    periodic = graph.periodic
    cell = jnp.where(periodic[:, None, None], graph.cell, jnp.eye(3, dtype=dtype))
    volume = jnp.abs(jnp.linalg.det(cell))
    charges = jnp.where(periodic[owner], charges, 0.0)
    mesh = _mesh_of(graph, cell)
    density = mesh.spread(charges)
    filtered = jnp.fft.rfftn(density, axes=(1, 2, 3)) * _kernel(mesh, cell, smearing)
    # norm="forward": a sum over waves, without the 1/n of an inverse
    field = jnp.fft.irfftn(filtered, s=mesh.shape, axes=(1, 2, 3), norm="forward")
    potential = mesh.gather(field) / volume[owner]
    total = molecule_sum(charges, graph)
    background = 2.0 * _KERNEL.correction_background(smearing) * total / volume
    potential = potential - _KERNEL.correction_self(smearing) * charges
    potential = potential - background[owner]
    return 0.5 * COULOMB_CONSTANT * charges * potential


class _Mesh(NamedTuple):
    """Where each atom is on the mesh of its molecule.

    The meshes of several molecules lie beside each other along x, so that the
    interpolation of jax-pme serves them all at once.
    """

    spots: Any  # jax-pme's own, with the shape of all meshes
    shape: tuple[int, ...]  # of one

    def spread(
        self, charges: Float[Array, " atoms"]
    ) -> Float[Array, "molecules x y z"]:
        """Charges at the points of each mesh."""
        return _SPREAD(charges, self.spots).reshape(-1, *self.shape)

    def gather(self, field: Float[Array, "molecules x y z"]) -> Float[Array, " atoms"]:
        """A field of each mesh at its atoms."""
        return _GATHER(field.reshape(-1, *self.shape[1:]), self.spots)


def _mesh_of(graph: Graph, cell: Float[Array, "molecules 3 3"]) -> _Mesh:
    owner, shape = graph.molecule_index, graph.mesh.shape
    inverse = jnp.linalg.inv(cell)[owner]
    # From the centre of the atoms: the energy then does not depend on where the mesh
    # is, and no net force is left.
    real = graph.atom_mask.astype(inverse.dtype)
    count = molecule_sum(real, graph)
    centre = molecule_sum(graph.positions * real[:, None], graph)
    centre = centre / jnp.maximum(count, 1.0)[:, None]
    centred = graph.positions - centre[owner]
    fractions = jnp.einsum("ax,axn->an", centred, inverse)
    unit = jnp.eye(3, dtype=fractions.dtype)
    weights, *nodes, x, y, z, _ = _ASSIGN(unit, fractions, np.zeros(shape))
    side_by_side = np.zeros((len(cell) * shape[0], *shape[1:]))
    spots = weights, *nodes, x + shape[0] * owner, y, z, side_by_side
    return _Mesh(spots, shape)


def _kernel(
    mesh: _Mesh, cell: Float[Array, "molecules 3 3"], smearing: Float[Array, ""]
) -> Float[Array, "molecules x y waves"]:
    """4π exp(-k²σ²/2)/k² of each wave, divided by what the splines do to it."""
    x, y, z = mesh.shape
    # Multiples of the reciprocal lattice vectors, as the transform orders them.
    turns = np.fft.fftfreq(x, 1 / x), np.fft.fftfreq(y, 1 / y), np.arange(z // 2 + 1)
    multiples = np.stack(np.meshgrid(*turns, indexing="ij"), axis=-1)
    influence = np.prod(np.sinc(multiples / np.array(mesh.shape)), -1) ** (-2 * _SPLINE)
    lattice = jax.vmap(get_reciprocal)(cell)
    waves = jnp.einsum("xyzn,mnc->mxyzc", jnp.asarray(multiples, cell.dtype), lattice)
    squared = jnp.sum(waves**2, axis=-1)
    real = squared > 0.0
    weight = _KERNEL.lr_k2(smearing, jnp.where(real, squared, 1.0))
    return jnp.where(real, weight, 0.0) * jnp.asarray(influence, cell.dtype)
