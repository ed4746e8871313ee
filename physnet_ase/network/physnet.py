"""PhysNet (Unke & Meuwly 2019) with electronic state.

J. Chem. Theory Comput. 2019, 15, 3678; "paper" below.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph
from physnet_ase.network.conditioning import (
    ChargeTransfer,
    LocalConditioning,
    StateConditioning,
)
from physnet_ase.network.interaction import (
    InteractionBlock,
    ResidualBlock,
    dense,
    shifted_softplus,
)
from physnet_ase.network.levels import HEAD, SPREAD, of_own_level
from physnet_ase.network.radial import RadialBasis

NUM_ELEMENTS = 119
"""Rows of the element tables: atomic numbers 1-118 and 0 for padding."""
NUM_OUTPUTS = 3
"""Energy, charge and spin population of an atom, where these are outputs."""


class NetworkOutput(NamedTuple):
    """Per-atom outputs, summed over blocks; padded atoms hold zeros."""

    energies: Float[Array, " atoms"]  # eV, without references and physics
    charges: Float[Array, " atoms"]  # e, before they are shifted to sum to Q
    spin_populations: Float[Array, " atoms"]  # before they are shifted to sum to 2S
    features: Float[Array, "atoms features"]
    nonhierarchicality: Float[Array, " atoms"]  # penalty on growing block outputs
    # of each head's energy, charge and spin population from those above, their means
    deviations: Float[Array, "atoms heads 3"]


class OutputBlock(nn.Module):
    """Residual blocks and a linear map from features to outputs (paper, Sec. 2)."""

    config: ModelConfig
    outputs: int

    @nn.compact
    def __call__(
        self, features: Float[Array, "atoms features"]
    ) -> tuple[Float[Array, "atoms outputs"], Float[Array, "atoms columns"]]:
        """Return this block's contribution to energy, or charge and spin too.

        Where there are several levels of theory, that of each; and where there are
        several heads, how far they are from it.
        """
        for index in range(self.config.num_residual_output):
            features = ResidualBlock(name=f"residual_{index}")(features)
        active, heads = shifted_softplus(features), self.config.num_heads
        output = dense(self.outputs, HEAD, use_bias=False)(active)
        if heads == 1:
            return output, jnp.zeros_like(output)
        return output, dense(heads * self.outputs, SPREAD, use_bias=False)(active)


class PhysNet(nn.Module):
    """Message passing over flat pairs; the state enters before every interaction."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        graph: Graph,
        distances: Float[Array, " pairs"],
        directions: Float[Array, "pairs 3"],
    ) -> NetworkOutput:
        """Map a graph to per-atom outputs.

        Args:
            graph: The batch; its positions are not read, only numbers, pairs, state.
            distances: Å; a padded pair's lies at or beyond the cutoff.
            directions: Unit vectors from receiver to sender.
        """
        config, dtype = self.config, distances.dtype
        radial = RadialBasis(config, name="radial")(distances)
        features = nn.Embed(
            NUM_ELEMENTS,
            config.num_features,
            embedding_init=nn.initializers.zeros,
            name="elements",
        )(graph.atomic_numbers).astype(dtype)
        outputs = 1 if config.conditioning == "local" else NUM_OUTPUTS
        total = jnp.zeros((features.shape[0], outputs), dtype)
        apart = jnp.zeros((features.shape[0], config.num_heads, outputs), dtype)
        penalty = jnp.zeros(features.shape[0], dtype)
        carried = previous = shares = None
        for block in range(config.num_blocks):
            if config.conditioning != "local":
                conditioning = StateConditioning(config, name=f"state_{block}")
                features = features + conditioning(features, graph)
            elif block > 0 or config.num_blocks == 1:
                # The first block is blind to the state: before it, equal elements of
                # far fragments could not be told apart, and both would become ions.
                conditioned = LocalConditioning(config, name=f"state_{block}")
                features, shares = conditioned(features, graph)
            last = block == config.num_blocks - 1
            interaction = InteractionBlock(config, last, name=f"interaction_{block}")
            features, carried = interaction(
                features, radial, directions, graph.senders, graph.receivers, carried
            )
            for index in range(config.num_residual_atomic):
                features = ResidualBlock(name=f"atomic_{block}_{index}")(features)
            columns = outputs * config.num_levels
            block_output = OutputBlock(config, columns, name=f"output_{block}")
            output, spread = (
                of_own_level(each, graph, config.num_levels)
                for each in block_output(features)
            )
            total, apart = total + output, apart + spread.reshape(apart.shape)
            squared = output[:, 0] ** 2
            if previous is not None:
                penalty = penalty + squared / (squared + previous + 1e-7)
            previous = squared
        scale = self.param("scale", nn.initializers.ones, (NUM_ELEMENTS, outputs))
        shift = self.param("shift", nn.initializers.zeros, (NUM_ELEMENTS, outputs))
        total = (
            total * scale[graph.atomic_numbers].astype(dtype)
            + shift[graph.atomic_numbers].astype(dtype)
        ) * graph.atom_mask[:, None]
        apart = apart - apart.mean(axis=1, keepdims=True)
        apart = apart * scale[graph.atomic_numbers, None].astype(dtype)
        # locally shared charges and spins are no outputs of the heads
        absent = ((0, 0), (0, 0), (0, NUM_OUTPUTS - outputs))
        deviations = jnp.pad(apart * graph.atom_mask[:, None, None], absent)
        penalty = penalty * graph.atom_mask / max(config.num_blocks - 1, 1)
        if shares is None:
            charges, spins = total[:, 1], total[:, 2]
        else:
            transfer = ChargeTransfer(config, name="transfer")
            charges, spins = transfer(features, radial, shares, graph)
        return NetworkOutput(
            energies=total[:, 0],
            charges=charges * graph.atom_mask,
            spin_populations=spins * graph.atom_mask,
            features=features * graph.atom_mask[:, None],
            nonhierarchicality=penalty,
            deviations=deviations,
        )
