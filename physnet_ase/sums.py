"""Sums over what belongs together: atoms of a molecule, pairs of an atom."""

from typing import Any

import jax


def owner_sum(values: Any, owner: Any, count: int) -> Any:
    """Sum of the rows of each owner, [owners, …].

    Args:
        values: [rows, …]
        owner: [rows] ascending, below ``count``.
        count: How many owners there are.
    """
    return jax.ops.segment_sum(values, owner, count, indices_are_sorted=True)


def molecule_sum(per_atom: Any, graph: Any) -> Any:
    """Sum over the atoms of each molecule of a graph, padded atoms included."""
    return owner_sum(per_atom, graph.molecule_index, graph.total_charge.shape[0])
