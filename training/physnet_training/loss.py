"""The masked loss: missing labels (NaN) and padding contribute exactly nothing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet_ase.graph import Graph
from physnet_ase.terms import AtomicTerms
from physnet_training.config import LossConfig


def penalty(error: Float[Array, "*n"], delta: float) -> Float[Array, "*n"]:
    """|error|, a parabola below ``delta`` (Huber 1964, scaled to slope 1)."""
    size = jnp.abs(error)
    if delta == 0.0:
        return size
    return jnp.where(size < delta, 0.5 * size**2 / delta, size - 0.5 * delta)


def masked_mean(
    prediction: Float[Array, " n *c"],
    label: Float[Array, " n *c"],
    weight: Float[Array, " n"],
    delta: float,
) -> Float[Array, ""]:
    """Weighted mean penalty over the rows whose label is there.

    A row counts when all its components are finite and its weight is positive. The
    mask acts before the difference, so gradients stay finite.
    """
    rows = label.reshape(label.shape[0], -1)
    predicted = prediction.reshape(rows.shape)
    present = jnp.all(jnp.isfinite(rows), axis=1) & (weight > 0)
    error = jnp.where(present[:, None], predicted - rows, 0.0)
    error = jnp.where(present[:, None], error, 0.0)
    weight = jnp.where(present, weight, 0.0)
    total = jnp.sum(weight[:, None] * penalty(error, delta)) / rows.shape[1]
    return total / jnp.maximum(jnp.sum(weight), 1e-12)


def dipoles(terms: AtomicTerms, graph: Graph) -> Float[Array, "molecules 3"]:
    """Σ q_i R_i of every molecule about the coordinate origin, in e·Å."""
    return jax.ops.segment_sum(
        terms.charges[:, None] * jnp.asarray(graph.positions),
        graph.molecule_index,
        graph.total_charge.shape[0],
        indices_are_sorted=True,
    )


def loss_terms(
    config: LossConfig,
    terms: AtomicTerms,
    forces: Float[Array, "atoms 3"],
    graph: Graph,
) -> dict[str, Float[Array, ""]]:
    """Unweighted loss of each kind; the energy label is already less its reference."""
    labels = graph.labels
    if labels is None:
        raise ValueError("the graph has no labels; use PackedMemmapLoader.graphs()")
    delta = config.huber_delta
    per_molecule = labels.weight * graph.molecule_mask
    per_atom = labels.weight[graph.molecule_index] * graph.atom_mask
    energies = jax.ops.segment_sum(
        terms.energies,
        graph.molecule_index,
        graph.total_charge.shape[0],
        indices_are_sorted=True,
    )
    return {
        "energy": masked_mean(energies, labels.energy, per_molecule, delta),
        "forces": masked_mean(forces, labels.forces, per_atom, delta),
        "dipole": masked_mean(
            dipoles(terms, graph), labels.dipole, per_molecule, delta
        ),
        "charges": masked_mean(terms.charges, labels.charges, per_atom, delta),
        "spin_populations": masked_mean(
            terms.spin_populations, labels.spin_populations, per_atom, delta
        ),
        "nonhierarchicality": jnp.sum(terms.nonhierarchicality)
        / jnp.maximum(jnp.sum(graph.atom_mask), 1),
    }


def total_loss(
    config: LossConfig, parts: dict[str, Float[Array, ""]]
) -> Float[Array, ""]:
    """Weighted sum of the parts."""
    return sum(
        (getattr(config, name) * value for name, value in parts.items()),
        start=jnp.zeros(()),
    )
