"""From terms to energies, forces and more: the one place that differentiates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph
from physnet_ase.terms import AtomicTerms, Params, molecule_energies


def terms_and_forces(
    config: ModelConfig, params: Params, graph: Graph
) -> tuple[AtomicTerms, Float[Array, "atoms 3"]]:
    """Terms and forces = -∂E/∂R in eV/Å; zero on padded atoms."""
    positions = jnp.asarray(graph.positions)

    def energy(x: jax.Array) -> tuple[jax.Array, AtomicTerms]:
        return molecule_energies(config, params, graph, x)

    gradient, terms = jax.grad(energy, has_aux=True)(positions)
    return terms, -gradient


def _terms(config: ModelConfig, params: Params, graph: Graph) -> dict[str, Any]:
    _, terms = molecule_energies(config, params, graph, jnp.asarray(graph.positions))
    return terms._asdict()


def _forces(config: ModelConfig, params: Params, graph: Graph) -> dict[str, Any]:
    terms, forces = terms_and_forces(config, params, graph)
    return terms._asdict() | {"forces": forces}


def _stress(config: ModelConfig, params: Params, graph: Graph) -> dict[str, Any]:
    positions = jnp.asarray(graph.positions)
    strain = jnp.zeros((graph.total_charge.shape[0], 3, 3), positions.dtype)

    def energy(x: jax.Array, eps: jax.Array) -> tuple[jax.Array, AtomicTerms]:
        return molecule_energies(config, params, graph, x, eps)

    (gradient, virial), terms = jax.grad(energy, argnums=(0, 1), has_aux=True)(
        positions, strain
    )
    return terms._asdict() | {"forces": -gradient, "virial": virial}


def _hessian(config: ModelConfig, params: Params, graph: Graph) -> dict[str, Any]:
    def gradient(x: jax.Array) -> jax.Array:
        moved = graph._replace(positions=x)
        return -terms_and_forces(config, params, moved)[1]

    positions = jnp.asarray(graph.positions)
    size = positions.size
    return {"hessian": jax.jacfwd(gradient)(positions).reshape(size, size)}


def _dipole_derivatives(
    config: ModelConfig, params: Params, graph: Graph
) -> dict[str, Any]:
    # Molecules do not see each other's positions, so the derivative of the sum of all
    # dipoles holds that of each molecule in the rows of its own atoms.
    def dipole(x: jax.Array) -> jax.Array:
        _, terms = molecule_energies(config, params, graph, x)
        return terms.charges @ x

    derivatives = jax.jacrev(dipole)(jnp.asarray(graph.positions))
    return {"dipole_derivatives": jnp.moveaxis(derivatives, 0, -1)}


PROGRAMS: dict[str, Callable[[ModelConfig, Params, Graph], dict[str, Any]]] = {
    "terms": _terms,
    "forces": _forces,
    "stress": _stress,
    "hessian": _hessian,
    "dipole_derivatives": _dipole_derivatives,
}
"""What ``Potential.run`` can compile, by kind of result."""
