"""Energies of a graph by network and physics, and the one place that differentiates."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph
from physnet_ase.network import make_network
from physnet_ase.network.physnet import NetworkOutput
from physnet_ase.physics import TERMS
from physnet_ase.physics.electrostatics import shift_to_total
from physnet_ase.physics.surroundings import Surroundings
from physnet_ase.quantities import QUANTITIES

Params = Any
"""A nested dict of arrays as flax makes it."""


class AtomicTerms(NamedTuple):
    """Per-atom results; padded atoms hold zeros. Energies without references."""

    energies: Float[Array, " atoms"]  # eV
    charges: Float[Array, " atoms"]  # e, sum to the total charge
    spin_populations: Float[Array, " atoms"]  # electrons, sum to 2S
    features: Float[Array, "atoms features"]
    nonhierarchicality: Float[Array, " atoms"]
    # of each head's energy, charge and spin population from the means above; physics
    # takes the mean charges, so it adds the same to every head
    deviations: Float[Array, "atoms heads 3"]


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
    vectors: Float[Array, "pairs 3"],
    long_vectors: Float[Array, "long_pairs 3"],
) -> AtomicTerms:
    """Network and physics of a graph whose pair vectors are given (eV, Å, e).

    Only Ewald's sum reads positions and cells, so callers with their own displacement
    function (jax-md) differentiate through the vectors they pass.
    """
    graph = jax.tree.map(jnp.asarray, graph._replace(labels=None))
    distances, safe = _safe_length(vectors, graph.pair_mask, config.cutoff)
    output = make_network(config).apply(
        {"params": params}, graph, distances, safe / distances[:, None]
    )
    network = cast("NetworkOutput", output)
    charges = shift_to_total(network.charges, graph.total_charge, graph)
    spins = shift_to_total(network.spin_populations, graph.spin_multiplicity - 1, graph)
    long, _ = _safe_length(long_vectors, graph.long_pair_mask, config.cutoff)
    around = Surroundings(graph, distances, long, charges)
    energies, deviations = network.energies, network.deviations
    if config.num_heads > 1:
        deviations = _neutral(deviations, graph)
    for name, term in TERMS.items():
        if getattr(config, name):
            energies = energies + term(config, around)
    return AtomicTerms(
        energies,
        charges,
        spins,
        network.features,
        network.nonhierarchicality,
        deviations,
    )


def _neutral(
    deviations: Float[Array, "atoms heads 3"], graph: Graph
) -> Float[Array, "atoms heads 3"]:
    """Deviations of charges and spins that sum to nothing, as each head's must."""
    nothing = jnp.zeros_like(graph.total_charge)

    def shifted(one: Float[Array, " atoms"]) -> Float[Array, " atoms"]:
        return shift_to_total(one, nothing, graph)

    of_heads = jax.vmap(jax.vmap(shifted, 1, 1), 2, 2)
    return deviations.at[:, :, 1:].set(of_heads(deviations[:, :, 1:]))


def graph_terms(
    config: ModelConfig,
    params: Params,
    graph: Graph,
    positions: Float[Array, "atoms 3"],
    strain: Float[Array, "molecules 3 3"] | None = None,
) -> AtomicTerms:
    """Terms of a graph as a function of positions (Å) and of a strain per molecule."""
    shifts = jnp.asarray(graph.shifts, positions.dtype)
    cell = jnp.asarray(graph.cell, positions.dtype)
    if strain is not None:
        symmetric = 0.5 * (strain + jnp.swapaxes(strain, 1, 2))
        per_atom = symmetric[graph.molecule_index]
        positions = positions + jnp.einsum("ni,nij->nj", positions, per_atom)
        shifts = shifts + jnp.einsum("ni,nij->nj", shifts, per_atom[graph.receivers])
        cell = cell + cell @ symmetric
    graph = graph._replace(positions=positions, shifts=shifts, cell=cell)
    short = positions[graph.senders] + shifts - positions[graph.receivers]
    long = positions[graph.long_senders] - positions[graph.long_receivers]
    return atomic_terms(config, params, graph, short, long)


def terms_and_forces(
    config: ModelConfig, params: Params, graph: Graph
) -> tuple[AtomicTerms, Float[Array, "atoms 3"]]:
    """Terms and forces = -∂E/∂R in eV/Å; zero on padded atoms."""

    def energy(positions: jax.Array) -> tuple[jax.Array, AtomicTerms]:
        terms = graph_terms(config, params, graph, positions)
        return jnp.sum(terms.energies), terms

    gradient, terms = jax.grad(energy, has_aux=True)(jnp.asarray(graph.positions))
    return terms, -gradient


def terms_forces_and_virial(
    config: ModelConfig, params: Params, graph: Graph
) -> tuple[AtomicTerms, Float[Array, "atoms 3"], Float[Array, "molecules 3 3"]]:
    """Terms, forces and ∂E/∂strain in eV: the stress times the volume."""
    positions = jnp.asarray(graph.positions)
    strain = jnp.zeros((graph.total_charge.shape[0], 3, 3), positions.dtype)

    def energy(x: jax.Array, eps: jax.Array) -> tuple[jax.Array, AtomicTerms]:
        terms = graph_terms(config, params, graph, x, eps)
        return jnp.sum(terms.energies), terms

    (gradient, virial), terms = jax.grad(energy, argnums=(0, 1), has_aux=True)(
        positions, strain
    )
    return terms, -gradient, virial


def _terms(config: ModelConfig, params: Params, graph: Graph) -> dict[str, Any]:
    positions = jnp.asarray(graph.positions)
    return graph_terms(config, params, graph, positions)._asdict()


def _forces(config: ModelConfig, params: Params, graph: Graph) -> dict[str, Any]:
    terms, forces = terms_and_forces(config, params, graph)
    return terms._asdict() | {"forces": forces}


def _stress(config: ModelConfig, params: Params, graph: Graph) -> dict[str, Any]:
    terms, forces, virial = terms_forces_and_virial(config, params, graph)
    return terms._asdict() | {"forces": forces, "virial": virial}


def _hessian(config: ModelConfig, params: Params, graph: Graph) -> dict[str, Any]:
    def gradient(x: jax.Array) -> jax.Array:
        moved = graph._replace(positions=x)
        return -terms_and_forces(config, params, moved)[1]

    positions = jnp.asarray(graph.positions)
    size = positions.size
    return {"hessian": jax.jacfwd(gradient)(positions).reshape(size, size)}


def _member_forces(config: ModelConfig, params: Params, graph: Graph) -> dict[str, Any]:
    """Forces of each head, [atoms, heads, 3] eV/Å: a backward pass for each."""

    def energies(x: jax.Array) -> Float[Array, " heads"]:
        terms = graph_terms(config, params, graph, x)
        return jnp.sum(terms.energies[:, None] + terms.deviations[:, :, 0], axis=0)

    gradients = jax.jacrev(energies)(jnp.asarray(graph.positions))
    return {"member_forces": -jnp.moveaxis(gradients, 0, 1)}


def _dipole_derivatives(
    config: ModelConfig, params: Params, graph: Graph
) -> dict[str, Any]:
    # Molecules do not see each other's positions, so the derivative of the sum of all
    # dipoles holds that of each molecule in the rows of its own atoms.
    def dipole(x: jax.Array) -> jax.Array:
        return graph_terms(config, params, graph, x).charges @ x

    derivatives = jax.jacrev(dipole)(jnp.asarray(graph.positions))
    return {"dipole_derivatives": jnp.moveaxis(derivatives, 0, -1)}


PROGRAMS: dict[str, Callable[[ModelConfig, Params, Graph], dict[str, Any]]] = {
    "terms": _terms,
    "forces": _forces,
    "stress": _stress,
    "member_forces": _member_forces,
    "hessian": _hessian,
    "dipole_derivatives": _dipole_derivatives,
}
"""What can be compiled, by kind of result."""


def program_for(labels: Collection[str]) -> str:
    """The kind of program that gives some labels."""
    for kind in ("stress", "forces"):
        if kind in labels:
            return kind
    return "terms"


def predicted_labels(
    outputs: Mapping[str, Any], graph: Graph, names: Iterable[str]
) -> dict[str, Any]:
    """Labels by name from what a program gives, energies without references."""
    predicted = {}
    for name in names:
        predict = QUANTITIES[name].predict
        predicted[name] = outputs[name] if predict is None else predict(outputs, graph)
    return predicted
