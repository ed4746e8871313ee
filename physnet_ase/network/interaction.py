"""PhysNet's building blocks: activation, residual block, interaction block."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from physnet_ase.config import ModelConfig
from physnet_ase.sums import owner_sum


@jax.custom_jvp
@jax.jit
def shifted_softplus(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """σ(x) = ln(eˣ/2 + 1/2), zero at zero (Unke & Meuwly 2019).

    With e = exp(-|x|) it is max(x, 0) + 2 artanh(t), t = (e - 1)/(e + 3) in [-1/3, 0]:
    a short series instead of the logarithm, which is the slowest part of a forward
    pass on a CPU.
    """
    decay = jnp.exp(-jnp.abs(x))
    t = (decay - 1.0) / (decay + 3.0)
    square = t * t
    # artanh(t) = t + t³/3 + t⁵/5 + …, each term at most 1/9 of the one before.
    terms = math.ceil(-math.log(np.finfo(x.dtype).eps, 9.0))
    series = jnp.zeros_like(square)
    for index in reversed(range(terms)):
        series = series * square + 1.0 / (2 * index + 1)
    return jnp.maximum(x, 0.0) + 2.0 * t * series


@shifted_softplus.defjvp
def _shifted_softplus_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """σ'(x) = 1/(1 + e⁻ˣ), smooth at zero where the formula above has a kink."""
    return shifted_softplus(primals[0]), tangents[0] * jax.nn.sigmoid(primals[0])


def dense(features: int, name: str, *, use_bias: bool = True) -> nn.Dense:
    """Linear layer; ``untrained.initial_parameters`` draws its kernel.

    Drawn there in NumPy, because compiling one random generator per layer here takes
    ten seconds before the first number.
    """
    zeros = nn.initializers.zeros
    return nn.Dense(features, use_bias=use_bias, kernel_init=zeros, name=name)


class ResidualBlock(nn.Module):
    """x + W₂ σ(W₁ σ(x) + b₁) + b₂ (Unke & Meuwly 2019)."""

    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "n features"]) -> Float[Array, "n features"]:
        """Return the refined features."""
        size = x.shape[-1]
        hidden = dense(size, "inner", use_bias=self.use_bias)(shifted_softplus(x))
        return x + dense(size, "residual", use_bias=self.use_bias)(
            shifted_softplus(hidden)
        )


def degree_components(
    directions: Float[Array, "pairs 3"], max_degree: int
) -> list[Float[Array, "pairs components"]]:
    """Cartesian p and real d harmonics of unit vectors, each set of norm 1.

    Sums of products over one set are rotation invariant, so contracting a set with
    itself gives scalars (Unke et al., Nat. Commun. 2021, 12, 7273).
    """
    x, y, z = directions[:, 0], directions[:, 1], directions[:, 2]
    sets = []
    if max_degree >= 1:
        sets.append(directions)
    if max_degree >= 2:
        root3 = 3.0**0.5
        sets.append(
            jnp.stack(
                [
                    root3 * x * y,
                    root3 * y * z,
                    root3 * x * z,
                    0.5 * (3.0 * z * z - 1.0),
                    0.5 * root3 * (x * x - y * y),
                ],
                axis=1,
            )
        )
    return sets


class InteractionBlock(nn.Module):
    """Messages from neighbours, refined and added to the atom (paper, Sec. 2).

    The attention mask G g(r) of PhysNet weighs each neighbour's features. With
    ``max_degree`` p- and d-type messages are summed as vectors and tensors and
    contracted to scalars, which tells angles apart within one block.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "atoms features"],
        radial: Float[Array, "pairs radial"],
        directions: Float[Array, "pairs 3"],
        senders: Int[Array, " pairs"],
        receivers: Int[Array, " pairs"],
        vectors: Float[Array, "atoms 3 features"] | None = None,
    ) -> tuple[Float[Array, "atoms features"], Float[Array, "atoms 3 features"] | None]:
        """Return features, and vectors, after one exchange with the neighbours."""
        size, degree = self.config.num_features, self.config.max_degree
        gather_sum = partial(owner_sum, owner=receivers, count=features.shape[0])
        active = shifted_softplus(features)
        message = shifted_softplus(dense(size, "self")(active))
        channels = size * (1 + degree)
        masks = dense(channels, "mask", use_bias=False)(radial)
        sent = shifted_softplus(dense(channels, "neighbor")(active))
        weighted = jnp.split(masks * sent[senders], 1 + degree, axis=1)
        message = message + gather_sum(weighted[0])
        for index, components in enumerate(degree_components(directions, degree)):
            values = components[:, :, None] * weighted[index + 1][:, None, :]
            summed = gather_sum(values)
            left = dense(size, f"left_{index + 1}", use_bias=False)(summed)
            right = dense(size, f"right_{index + 1}", use_bias=False)(summed)
            message = message + jnp.sum(left * right, axis=1)
        if vectors is not None:
            vectors, scalars = VectorExchange(self.config, name="vectors")(
                active, vectors, radial, directions, senders, receivers
            )
            message = message + scalars
        for index in range(self.config.num_residual_interaction):
            message = ResidualBlock(name=f"residual_{index}")(message)
        gate = self.param("gate", nn.initializers.ones, (size,)).astype(features.dtype)
        features = gate * features + dense(size, "output")(shifted_softplus(message))
        return features, vectors


class VectorExchange(nn.Module):
    """Vectors that atoms carry from block to block, as in PaiNN.

    V_i ← V_i + Σ_j [G₁g(r_ij) ∘ W₁σ(x_j)] r̂_ij + [G₂g(r_ij) ∘ W₂σ(x_j)] ∘ V_j, times
    a gate of the atom; ⟨A V_i, B V_i⟩ goes to the scalars (Schütt, Unke & Gastegger,
    ICML 2021). A vector that has passed through a neighbour tells the directions of
    bonds against each other, torsions included.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        active: Float[Array, "atoms features"],
        vectors: Float[Array, "atoms 3 features"],
        radial: Float[Array, "pairs radial"],
        directions: Float[Array, "pairs 3"],
        senders: Int[Array, " pairs"],
        receivers: Int[Array, " pairs"],
    ) -> tuple[Float[Array, "atoms 3 features"], Float[Array, "atoms features"]]:
        """Return the new vectors, and what they add to the atoms' messages."""
        size = self.config.num_features
        masks = dense(2 * size, "mask", use_bias=False)(radial)
        sent = shifted_softplus(dense(2 * size, "neighbor")(active))
        new, passed = jnp.split(masks * sent[senders], 2, axis=1)
        arriving = directions[:, :, None] * new[:, None, :]
        arriving = arriving + passed[:, None, :] * vectors[senders]
        summed = owner_sum(arriving, receivers, active.shape[0])
        gate = jax.nn.sigmoid(dense(size, "gate")(active))
        vectors = (vectors + summed) * gate[:, None, :]
        left = dense(size, "left", use_bias=False)(vectors)
        right = dense(size, "right", use_bias=False)(vectors)
        return vectors, jnp.sum(left * right, axis=1)
