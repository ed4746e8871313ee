"""What a physics term sees of a batch."""

from typing import NamedTuple

from jaxtyping import Array, Float

from physnet_ase.graph import Graph


class Surroundings(NamedTuple):
    """A graph with the distances of its pairs and what the network predicted.

    Distances of masked pairs are safe numbers: mask what is made of them.
    """

    graph: Graph
    distances: Float[Array, " pairs"]  # Å
    long_distances: Float[Array, " long_pairs"]  # Å
    charges: Float[Array, " atoms"]  # e, sum to the total charge
