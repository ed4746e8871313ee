"""Radial functions: the smooth cutoff and PhysNet's exponential basis."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physnet_ase.config import ModelConfig


def smooth_cutoff(distance: Float[Array, "*n"], cutoff: float) -> Float[Array, "*n"]:
    """Polynomial that falls from 1 at 0 to 0 at the cutoff, twice differentiable.

    φ(x) = 1 - 6x⁵ + 15x⁴ - 10x³ for x = r / r_c < 1, else 0
    (Unke & Meuwly 2019).

    Args:
        distance: r in Å, not negative.
        cutoff: r_c in Å.
    """
    x = jnp.minimum(distance / cutoff, 1.0)
    return 1.0 + x**3 * (-10.0 + x * (15.0 - 6.0 * x))


def initial_centers(num_radial: int, cutoff: float) -> tuple[np.ndarray, float]:
    """Starting centres μ_k in exp(-r/Å) and the common width β."""
    lowest = math.exp(-cutoff)
    centers = np.linspace(lowest, 1.0, num_radial)
    return centers, (2.0 / num_radial * (1.0 - lowest)) ** -2


class RadialBasis(nn.Module):
    """g_k(r) = φ(r) exp(-β_k (exp(-r/Å) - μ_k)²) (Unke & Meuwly 2019).

    Centres and widths are trained, kept positive by a softplus as in the paper's code.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self, distances: Float[Array, " pairs"]
    ) -> Float[Array, "pairs radial"]:
        """Return the radial functions of ``distances`` in Å."""
        cutoff, size = self.config.cutoff, self.config.num_radial
        centers, width = initial_centers(size, cutoff)
        dtype = distances.dtype
        raw_centers = np.log(np.expm1(centers))  # softplus gives the centres back
        mu = self.param("centers", lambda _: jnp.asarray(raw_centers, jnp.float32))
        root = self.param("widths", lambda _: jnp.full((size,), width**0.5))
        gap = jnp.exp(-distances)[:, None] - jax.nn.softplus(mu.astype(dtype))
        gaussians = jnp.exp(-((root.astype(dtype) * gap) ** 2))
        return smooth_cutoff(distances, cutoff)[:, None] * gaussians
