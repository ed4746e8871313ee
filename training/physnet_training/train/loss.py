"""The masked loss: missing labels (NaN) and padding contribute exactly nothing."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet_ase.graph import Graph
from physnet_ase.quantities import QUANTITIES
from physnet_training.train.recipe import LossConfig

WHOLE = 20
"""Atoms up to which the error of a molecule's energy counts in full. Every atom is
pushed by the error of them all, alike, and by those of the forces one by one: in large
systems forces would drown, so the energy counts less by the square of the size."""


def penalty(error: Float[Array, "*n"], config: LossConfig) -> Float[Array, "*n"]:
    """|error|, its square, or Huber's: a parabola below δ (1964, scaled to slope 1)."""
    if config.kind == "squared":
        return error**2
    size, delta = jnp.abs(error), config.huber_delta
    if config.kind == "l1":
        return size
    return jnp.where(size < delta, 0.5 * size**2 / delta, size - 0.5 * delta)


def masked_mean(
    prediction: Float[Array, " n *c"],
    label: Float[Array, " n *c"],
    weight: Float[Array, " n"],
    config: LossConfig,
    total: Callable[[Array], Array] = lambda own: own,
    *,
    share: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Weighted mean penalty over the rows whose label is there.

    A row counts when all its components are finite and its weight is positive. The
    mask acts before the difference, so gradients stay finite.

    Args:
        prediction: What the model says.
        label: What it should say, NaN where that is not known.
        weight: Of each row.
        config: Shape of the penalty.
        total: Where the rows are a share of a batch: the sum of a number over all
            shares. The means of the shares then add up to that of the batch.
        share: What part of each row's penalty counts; None: all of it.
    """
    rows = label.reshape(label.shape[0], -1)
    predicted = prediction.reshape(rows.shape)
    present = jnp.all(jnp.isfinite(rows), axis=1) & (weight > 0)
    error = jnp.where(present[:, None], predicted - rows, 0.0)
    error = jnp.where(present[:, None], error, 0.0)
    weight = jnp.where(present, weight, 0.0)
    counted = weight if share is None else weight * share
    penalties = jnp.sum(counted[:, None] * penalty(error, config)) / rows.shape[1]
    return penalties / jnp.maximum(total(jnp.sum(weight)), 1e-12)


def loss_terms(
    config: LossConfig,
    predicted: Mapping[str, Array],
    nonhierarchicality: Float[Array, " atoms"],
    graph: Graph,
    total: Callable[[Array], Array] = lambda own: own,
) -> dict[str, Float[Array, ""]]:
    """Unweighted loss of each predicted label, and PhysNet's penalty.

    Energy labels are already less their references; errors of large systems count less,
    see ``WHOLE``.

    Args:
        config: Weights and shape of the loss.
        predicted: Name of a quantity -> array, as ``energy.predicted_labels`` has it.
        nonhierarchicality: The network's penalty on growing block outputs.
        graph: With labels of the same names.
        total: As for :func:`masked_mean`.
    """
    labels = graph.labels
    if labels is None:
        raise ValueError("the graph has no labels; use PackedMemmapLoader.graphs()")
    per_molecule = labels.weight * graph.molecule_mask
    per_atom = labels.weight[graph.molecule_index] * graph.atom_mask
    parts = {
        name: masked_mean(
            prediction,
            labels.values[name],
            per_atom if QUANTITIES[name].per_atom else per_molecule,
            config,
            total,
            share=energy_share(graph) if name == "energy" else None,
        )
        for name, prediction in predicted.items()
    }
    if labels.ladder is not None and "energy" in predicted:
        parts["vertical"] = vertical_error(config, predicted["energy"], graph, total)
    penalties, atoms = jnp.sum(nonhierarchicality), total(jnp.sum(graph.atom_mask))
    return parts | {"nonhierarchicality": penalties / jnp.maximum(atoms, 1)}


def energy_share(graph: Graph) -> Float[Array, " molecules"]:
    """What part of each molecule's energy error counts: 1, of large ones (20/N)²."""
    atoms = (
        jnp.zeros(len(graph.total_charge))
        .at[graph.molecule_index]
        .add(graph.atom_mask.astype(jnp.float32))
    )
    return (WHOLE / jnp.maximum(atoms, WHOLE)) ** 2


def vertical_error(
    config: LossConfig,
    energy: Float[Array, " n"],
    graph: Graph,
    total: Callable[[Array], Array] = lambda own: own,
) -> Float[Array, ""]:
    """Mean penalty of the error of E(a) - E(b), over all pairs of states of a geometry.

    A pair weighs as much as the lesser of its two molecules; 0 where there is no pair.

    Args:
        config: Shape of the penalty.
        energy: Predicted, in eV, without references.
        graph: With labels that say which molecules are one geometry.
        total: As for :func:`masked_mean`; pairs count within a share.
    """
    labels = graph.labels
    if labels is None or labels.ladder is None:
        raise ValueError("the graph has no ladders; use a loader with keep_ladders")
    label, weight = labels.values["energy"], labels.weight * graph.molecule_mask
    first, second = jnp.triu_indices(len(energy), k=1)
    state = jnp.stack([graph.total_charge, graph.spin_multiplicity])
    pair = (labels.ladder[first] == labels.ladder[second]) & jnp.any(
        state[:, first] != state[:, second], axis=0
    )
    return masked_mean(
        energy[first] - energy[second],
        label[first] - label[second],
        jnp.where(pair, jnp.minimum(weight[first], weight[second]), 0.0),
        config,
        total,
    )


def total_loss(
    config: LossConfig, parts: Mapping[str, Float[Array, ""]]
) -> Float[Array, ""]:
    """Weighted sum of the parts."""
    return sum(
        (getattr(config, name) * value for name, value in parts.items()),
        start=jnp.zeros(()),
    )
