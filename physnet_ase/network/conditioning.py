"""How total charge and spin multiplicity enter the network.

Both variants share their weight over the molecule's atoms by attention, so one electron
more is one electron more in a molecule of any size, and both add exactly nothing to a
neutral singlet.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph
from physnet_ase.network.interaction import ResidualBlock, dense

SMALLEST_SCORE = 1e-6
"""Added to every score: where all underflow, atoms share evenly instead of 0/0."""


def signed_signal(psi: Float[Array, " molecules"]) -> Float[Array, "molecules 2"]:
    """relu([ψ, -ψ]): gain and loss of electrons get weights of their own."""
    return jax.nn.relu(jnp.stack([psi, -psi], axis=1))


class StateSignal(nn.Module):
    """One vector per molecule for its charge or spin; zero for charge 0, 2S+1 = 1."""

    config: ModelConfig
    kind: str

    @nn.compact
    def __call__(self, graph: Graph, dtype: jnp.dtype) -> Float[Array, "molecules s"]:
        """Return the signal of ``kind`` "charge" or "spin"."""
        charge = self.kind == "charge"
        if self.config.conditioning == "attention":
            if charge:
                return signed_signal(graph.total_charge.astype(dtype))
            return (graph.spin_multiplicity - 1).astype(dtype)[:, None]
        low, high = self.config.charge_range if charge else self.config.spin_range
        size = (
            self.config.charge_embedding_size
            if charge
            else self.config.spin_embedding_size
        )
        state = graph.total_charge if charge else graph.spin_multiplicity
        reference = 0 if charge else 1
        zeros = nn.initializers.zeros
        table = nn.Embed(high - low + 1, size, embedding_init=zeros, name="table")
        rows = table(state - low) - table(jnp.full_like(state, reference - low))
        return rows.astype(dtype)


class QueryScore(nn.Module):
    """q_i·k of a linear query q_i = W x_i + b and the key k of the atom's molecule.

    Evaluated as x_i·(Wᵀk) + b·k: one product per molecule instead of one per atom.
    """

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "atoms features"],
        key: Float[Array, "molecules features"],
        graph: Graph,
    ) -> Float[Array, " atoms"]:
        """Return one score per atom."""
        size, zeros = features.shape[-1], nn.initializers.zeros
        kernel = self.param("kernel", zeros, (size, size)).astype(features.dtype)
        bias = self.param("bias", zeros, (size,)).astype(features.dtype)
        direction, offset = key @ kernel.T, key @ bias
        along = jnp.sum(features * direction[graph.molecule_index], axis=1)
        return along + offset[graph.molecule_index]


class StateConditioning(nn.Module):
    """Attention over atoms: each takes a share of the state's vector that suits it.

    a_i = softplus(q_i·k/√F), normalised over the molecule, times the value v, through a
    bias-free residual block (Unke et al., Nat. Commun. 2021, 12, 7273).
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self, features: Float[Array, "atoms features"], graph: Graph
    ) -> Float[Array, "atoms features"]:
        """Return what charge and spin add to the atoms' features."""
        size, dtype = self.config.num_features, features.dtype
        num_molecules = graph.total_charge.shape[0]
        added = jnp.zeros_like(features)
        for kind in ("charge", "spin"):
            signal = StateSignal(self.config, kind, name=kind)(graph, dtype)
            length = jnp.maximum(jnp.max(jnp.abs(signal), axis=1, keepdims=True), 1.0)
            key = dense(size, f"{kind}_key", use_bias=False)(signal / length)
            value = dense(size, f"{kind}_value", use_bias=False)(signal)
            score = QueryScore(name=f"{kind}_query")(features, key, graph)
            score = jax.nn.softplus(score / size**0.5) + SMALLEST_SCORE
            score = jnp.where(graph.atom_mask, score, 0.0)
            total = jax.ops.segment_sum(
                score, graph.molecule_index, num_molecules, indices_are_sorted=True
            )
            total = jnp.where(total > 0.0, total, 1.0)  # a filler row has no atoms
            share = (score / total[graph.molecule_index])[:, None]
            update = share * value[graph.molecule_index]
            added = added + ResidualBlock(use_bias=False, name=f"{kind}_residual")(
                update
            )
        return added
