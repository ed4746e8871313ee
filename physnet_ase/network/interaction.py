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
    contracted to scalars, which tells angles apart within one block; with
    ``vector_features`` they also stay on the atom.
    """

    config: ModelConfig
    last: bool = False

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "atoms features"],
        radial: Float[Array, "pairs radial"],
        directions: Float[Array, "pairs 3"],
        senders: Int[Array, " pairs"],
        receivers: Int[Array, " pairs"],
        carried: Float[Array, "atoms components features"] | None = None,
    ) -> tuple[
        Float[Array, "atoms features"],
        Float[Array, "atoms components features"] | None,
    ]:
        """Return features, and what has a direction, after one exchange."""
        size, degree = self.config.num_features, self.config.max_degree
        if self.config.vector_features:  # what arrives stays on the atom instead
            degree = 0
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
        if self.config.vector_features:
            exchange = DirectionExchange(self.config, self.last, name="directions")
            carried, scalars = exchange(
                active, carried, radial, directions, senders, receivers
            )
            message = message + scalars
        for index in range(self.config.num_residual_interaction):
            message = ResidualBlock(name=f"residual_{index}")(message)
        gate = self.param("gate", nn.initializers.ones, (size,)).astype(features.dtype)
        features = gate * features + dense(size, "output")(shifted_softplus(message))
        return features, carried


class DirectionExchange(nn.Module):
    """Vectors, and with ``max_degree = 2`` tensors, that atoms carry between blocks.

    As in PaiNN (Schütt, Unke & Gastegger, ICML 2021), for the p- and the d-type set
    x of an atom alike: x_i ← x_i + Σ_j [G₁g(r_ij) ∘ W₁σ(f_j)] Y(r̂_ij) + [G₂g(r_ij) ∘
    W₂σ(f_j)] ∘ x_j. What has passed through a neighbour tells the directions of bonds
    against each other, torsions included. Then the atom mixes its sets, weighed by
    gates: x ← g₁ ∘ x + g₂ ∘ Bx, and, as tensor products do (Batzner et al., Nat.
    Commun. 2022, 13, 2453), vectors turned by tensors and tensors made of vectors are
    added. The invariants Σ Ax ∘ Bx go to the gates and to the scalars.
    """

    config: ModelConfig
    last: bool = False

    @nn.compact
    def __call__(
        self,
        active: Float[Array, "atoms features"],
        carried: Float[Array, "atoms components features"] | None,
        radial: Float[Array, "pairs radial"],
        directions: Float[Array, "pairs 3"],
        senders: Int[Array, " pairs"],
        receivers: Int[Array, " pairs"],
    ) -> tuple[
        Float[Array, "atoms components features"] | None,
        Float[Array, "atoms features"],
    ]:
        """Return what atoms carry on, and what it adds to their messages."""
        size, degree = self.config.num_features, max(self.config.max_degree, 1)
        columns = size if carried is None else 2 * size
        masks = dense(columns, "mask", use_bias=False)(radial)
        sent = shifted_softplus(dense(columns, "neighbor")(active))
        weights = (masks * sent[senders])[:, None, :]
        sets = jnp.concatenate(degree_components(directions, degree), axis=1)
        arriving = sets[:, :, None] * weights[:, :, :size]
        if carried is not None:
            arriving = arriving + weights[:, :, size:] * carried[senders]
        summed = owner_sum(arriving, receivers, active.shape[0])
        carried = summed if carried is None else carried + summed
        kept = jnp.split(carried, [3], axis=1)[:degree]
        left = [
            dense(size, f"left_{index + 1}", use_bias=False)(x)
            for index, x in enumerate(kept)
        ]
        right = [
            dense(size, f"right_{index + 1}", use_bias=False)(x)
            for index, x in enumerate(kept)
        ]
        invariants = sum(
            (jnp.sum(a * b, axis=1) for a, b in zip(left, right, strict=True)),
            start=jnp.zeros_like(active),
        )
        if self.last:
            return None, invariants
        hidden = dense(size, "gate")(active)
        hidden = hidden + dense(size, "gate_invariants", use_bias=False)(invariants)
        gates = dense((4 * degree - 2) * size, "gates")(shifted_softplus(hidden))
        # bounded: products of what is carried are its squares, no higher powers
        gates = jnp.split(jnp.tanh(gates)[:, None, :], 4 * degree - 2, axis=2)
        mixed = [
            0.5 * (1.0 + gates[2 * index]) * x + gates[2 * index + 1] * b
            for index, (x, b) in enumerate(zip(kept, right, strict=True))
        ]
        if degree == 2:
            mixed[0] = mixed[0] + gates[4] * tensor_times_vector(right[1], left[0])
            mixed[1] = mixed[1] + gates[5] * tensor_of_vectors(left[0], right[0])
        return jnp.concatenate(mixed, axis=1), invariants


def tensor_times_vector(
    tensor: Float[Array, "n 5 *features"], vector: Float[Array, "n 3 *features"]
) -> Float[Array, "n 3 *features"]:
    """The vector T v, where T is the traceless matrix of a d-type set.

    Components as in :func:`degree_components`; for the set Y of a unit vector r̂ it is
    (3/2 r̂ r̂ᵀ - 1/2) v.
    """
    half = 0.5 * 3.0**0.5
    xy, yz, xz, zz, rest = (tensor[:, m] for m in range(5))
    x, y, z = (vector[:, m] for m in range(3))
    return jnp.stack(
        [
            (half * rest - 0.5 * zz) * x + half * (xy * y + xz * z),
            half * (xy * x + yz * z) - (half * rest + 0.5 * zz) * y,
            half * (xz * x + yz * y) + zz * z,
        ],
        axis=1,
    )


def tensor_of_vectors(
    left: Float[Array, "n 3 *features"], right: Float[Array, "n 3 *features"]
) -> Float[Array, "n 5 *features"]:
    """The d-type set of two vectors; of twice the same unit vector, its harmonics."""
    half = 0.5 * 3.0**0.5
    (a, b, c), (x, y, z) = (
        [vectors[:, m] for m in range(3)] for vectors in (left, right)
    )
    return jnp.stack(
        [
            half * (a * y + b * x),
            half * (b * z + c * y),
            half * (a * z + c * x),
            c * z - 0.5 * (a * x + b * y),
            half * (a * x - b * y),
        ],
        axis=1,
    )
