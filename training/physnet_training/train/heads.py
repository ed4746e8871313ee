"""Training of several heads: each learns from a share of the geometries of its own.

Where heads that have not seen a geometry disagree about it, so they do about molecules
that none has seen: bagging (Breiman, Mach. Learn. 1996, 24, 123) behind one trunk.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from physnet_ase.energy import member_outputs
from physnet_ase.graph import Graph

LEFT_OUT = 1 / 3
"""Share of the heads that do not learn from a geometry."""

Losses = dict[str, Float[Array, ""]]
_GOLDEN, _FIRST, _SECOND = (np.uint32(x) for x in (0x9E3779B9, 0x85EBCA6B, 0xC2B2AE35))


def losses_of_heads(
    losses: Callable[[Mapping[str, Any], Graph], Losses],
    outputs: Mapping[str, Any],
    graph: Graph,
) -> Losses:
    """The mean over heads of what each loses on its own share of a batch.

    Forces and stresses are those of the mean: one backward pass for all heads.

    Args:
        losses: What a model with some outputs loses on a graph.
        outputs: Of a program, with the heads' deviations.
        graph: With labels.
    """
    labels = graph.labels
    if labels is None:
        raise ValueError("the graph has no labels; use PackedMemmapLoader.graphs()")

    def of_head(own: Mapping[str, Any], share: Bool[Array, " molecules"]) -> Losses:
        counted = labels._replace(weight=labels.weight * share)
        return losses({**outputs, **own}, graph._replace(labels=counted))

    num_heads = outputs["deviations"].shape[1]
    shares = head_shares(graph, num_heads)
    return jax.tree.map(jnp.mean, jax.vmap(of_head)(member_outputs(outputs), shares))


def head_shares(graph: Graph, num_heads: int) -> Bool[Array, "heads molecules"]:
    """Which head learns from which molecule; all states of a geometry go together.

    A function of the atoms alone: no order of data, split or resumption changes it.
    """
    geometries = geometry_hashes(graph)
    heads = jnp.arange(1, num_heads + 1, dtype=jnp.uint32) * _GOLDEN
    scores = _mixed(geometries[None] ^ heads[:, None])
    ranks = jnp.argsort(jnp.argsort(scores, axis=0), axis=0)
    return ranks >= round(LEFT_OUT * num_heads)


def geometry_hashes(graph: Graph) -> UInt32[Array, " molecules"]:
    """A number for each geometry, whatever the order of its atoms and its state."""
    positions = jnp.asarray(graph.positions, jnp.float32)
    mixed = jnp.asarray(graph.atomic_numbers).astype(jnp.uint32)
    for axis in jax.lax.bitcast_convert_type(positions, jnp.uint32).T:
        mixed = _mixed((mixed * _GOLDEN) ^ axis)
    mixed = jnp.where(graph.atom_mask, mixed, 0)
    slots = graph.total_charge.shape[0]
    sums = jax.ops.segment_sum(
        mixed, graph.molecule_index, slots, indices_are_sorted=True
    )
    return _mixed(sums)


def _mixed(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """The last step of MurmurHash3: every bit depends on all others."""
    x = (x ^ (x >> 16)) * _FIRST
    x = (x ^ (x >> 13)) * _SECOND
    return x ^ (x >> 16)
