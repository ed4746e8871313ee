"""What charge and spin cost: counted operations of a call with energy and forces.

    python benchmarks/conditioning_flops.py

Acetone (10 atoms), every preset with every kind of conditioning, against the same
network whose conditioning adds zeros. XLA counts the operations of the compiled
program; nothing is timed.
"""

from functools import partial
from unittest.mock import patch

import flax.linen as nn
import jax
import jax.numpy as jnp
from ase.build import molecule

from physnet_ase.config import PRESETS, ModelConfig
from physnet_ase.energy import terms_and_forces
from physnet_ase.graph import Graph, build_graph, needed_capacity
from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import find_pairs
from physnet_ase.network import physnet
from physnet_ase.state import ElectronicState
from physnet_ase.untrained import untrained_potential


class Nothing(nn.Module):
    """In the place of the conditioning."""

    config: ModelConfig

    @nn.compact
    def __call__(self, features: jax.Array, graph: Graph) -> jax.Array:
        """Return zeros."""
        return jnp.zeros_like(features)


def operations(config: ModelConfig, graph: Graph) -> float:
    """Of one call, in millions."""
    params = untrained_potential(config, (1, 6, 8)).params
    program = jax.jit(partial(terms_and_forces, config)).lower(params, graph).compile()
    return float(program.cost_analysis()["flops"]) / 1e6


def main() -> None:
    """Print a table."""
    acetone = Molecules.from_atoms([molecule("CH3COCH3")], [ElectronicState(0, 1)])
    print("| preset | conditioning | MFlop | more than without |\n|---|---|---:|---:|")
    for name, preset in PRESETS.items():
        pairs = find_pairs(acetone, preset.cutoff)
        graph = build_graph(acetone, pairs, needed_capacity(acetone, pairs))
        graph = jax.tree.map(jnp.asarray, graph)
        with patch.object(physnet, "StateConditioning", Nothing):
            plain = preset.model_copy(update={"conditioning": "attention"})
            without = operations(plain, graph)
        for kind in ("attention", "embedding", "local"):
            config = preset.model_copy(update={"conditioning": kind})
            found = operations(config, graph)
            more = found / without - 1.0
            print(f"| `{name}` | {kind} | {found:.1f} | {more:+.1%} |")


if __name__ == "__main__":
    main()
