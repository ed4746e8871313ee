"""How total charge and spin multiplicity enter the network.

Every variant shares its weight over the molecule's atoms, so one electron more is one
electron more in a molecule of any size, and adds exactly nothing to a neutral singlet.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph
from physnet_ase.network.interaction import (
    ResidualBlock,
    dense,
    shifted_softplus,
)
from physnet_ase.sums import molecule_sum, owner_sum

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
        added = jnp.zeros_like(features)
        for kind in ("charge", "spin"):
            signal = StateSignal(self.config, kind, name=kind)(graph, dtype)
            length = jnp.maximum(jnp.max(jnp.abs(signal), axis=1, keepdims=True), 1.0)
            key = dense(size, f"{kind}_key", use_bias=False)(signal / length)
            value = dense(size, f"{kind}_value", use_bias=False)(signal)
            score = QueryScore(name=f"{kind}_query")(features, key, graph)
            score = jax.nn.softplus(score / size**0.5) + SMALLEST_SCORE
            score = jnp.where(graph.atom_mask, score, 0.0)
            total = molecule_sum(score, graph)
            total = jnp.where(total > 0.0, total, 1.0)  # a filler row has no atoms
            share = (score / total[graph.molecule_index])[:, None]
            update = share * value[graph.molecule_index]
            added = added + ResidualBlock(use_bias=False, name=f"{kind}_residual")(
                update
            )
        return added


class Shares(NamedTuple):
    """What each atom carries of the excess charge and of the unpaired electrons."""

    charge: Float[Array, " atoms"]  # e, sums to the total charge
    spin: Float[Array, " atoms"]  # electrons, sums to 2S


def molecule_softmax(
    scores: Float[Array, " atoms"], graph: Graph
) -> Float[Array, " atoms"]:
    """Softmax over the atoms of each molecule; 0 on padded atoms."""
    num_molecules, owner = graph.total_charge.shape[0], graph.molecule_index
    lowest = jnp.asarray(-jnp.inf, scores.dtype)
    highest = jax.ops.segment_max(
        jnp.where(graph.atom_mask, jax.lax.stop_gradient(scores), lowest),
        owner,
        num_molecules,
        indices_are_sorted=True,
    )
    highest = jnp.where(jnp.isfinite(highest), highest, 0.0)  # a filler has no atoms
    safe = jnp.where(graph.atom_mask, scores - highest[owner], 0.0)
    weights = jnp.where(graph.atom_mask, jnp.exp(safe), 0.0)
    total = molecule_sum(weights, graph)
    return weights / jnp.where(total > 0.0, total, 1.0)[owner]


class LocalShares(nn.Module):
    """Shares of a molecule's total, from the features of its atoms.

    share_i = T exp(ℓ_i)/Σ exp(ℓ_j), with scores ℓ of their own for positive and for
    negative totals. The exponential lets the whole total sit on one of several far
    fragments, and two equal ones get a half each.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "atoms features"],
        total: Float[Array, " molecules"],
        graph: Graph,
    ) -> Float[Array, " atoms"]:
        """Return what each atom carries of ``total``."""
        hidden = dense(self.config.num_features, "inner")(shifted_softplus(features))
        scores = SHARPNESS * dense(2, "scores")(shifted_softplus(hidden))
        own = total[graph.molecule_index]
        score = jnp.where(own > 0.0, scores[:, 0], scores[:, 1])
        return own * molecule_softmax(score, graph)


class LocalConditioning(nn.Module):
    """What an atom's own shares add to its features; nothing where they are zero.

    Spins are shared after charges, by atoms that know theirs: where an electron is
    missing another one is unpaired.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self, features: Float[Array, "atoms features"], graph: Graph
    ) -> tuple[Float[Array, "atoms features"], Shares]:
        """Return the new features, and the shares behind them."""
        dtype = features.dtype
        charge = LocalShares(self.config, name="charge_shares")(
            features, graph.total_charge.astype(dtype), graph
        )
        features = self._changed(features, signed_signal(charge), "charge")
        spin = LocalShares(self.config, name="spin_shares")(
            features, (graph.spin_multiplicity - 1).astype(dtype), graph
        )
        features = self._changed(features, spin[:, None], "spin")
        return features, Shares(charge, spin)

    def _changed(
        self,
        features: Float[Array, "atoms features"],
        signal: Float[Array, "atoms s"],
        kind: str,
    ) -> Float[Array, "atoms features"]:
        """Features with what a share does to them.

        A share acts through the atom's own features: what a hole does to oxygen is not
        what it does to carbon.
        """
        size = self.config.num_features
        gate = dense(size, f"{kind}_gate")(shifted_softplus(features))
        update = dense(size, f"{kind}_value", use_bias=False)(signal) * gate
        block = ResidualBlock(use_bias=False, name=f"{kind}_residual")
        return features + block(update)


class ChargeTransfer(nn.Module):
    """Charges and spin populations: the shares, and what neighbours pass to each other.

    q_i = share_i + Σ_j (τ_ij - τ_ji), τ_ij = Σ_k h_k(r_ij) a_k(x_i) b_k(x_j). What one
    atom gains another loses, so fragments that do not see each other keep their sums.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "atoms features"],
        radial: Float[Array, "pairs radial"],
        shares: Shares,
        graph: Graph,
    ) -> Shares:
        """Return charges that sum to Q and spin populations that sum to 2S."""
        ranks, senders, receivers = TRANSFER_RANKS, graph.senders, graph.receivers
        active = shifted_softplus(features)
        left = dense(2 * ranks, "left")(active)
        right = dense(2 * ranks, "right")(active)
        strength = dense(2 * ranks, "head", use_bias=False)(radial)
        passed = left[receivers] * right[senders] - left[senders] * right[receivers]
        passed = (strength * passed).reshape(-1, 2, ranks).sum(axis=2)
        # Spins polarise each other only where there are some.
        present = shares.spin[receivers] + shares.spin[senders]
        passed = passed * jnp.stack([jnp.ones_like(present), present], axis=1)
        gained = owner_sum(passed, receivers, features.shape[0])
        return Shares(shares.charge + gained[:, 0], shares.spin + gained[:, 1])


SHARPNESS = 8.0
"""Factor of the scores: where ionization energies of two fragments differ by an
electronvolt the scores must by several units, or the wrong one keeps a share."""
TRANSFER_RANKS = 16
"""Terms of the bilinear form by which two atoms exchange charge."""
