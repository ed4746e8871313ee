"""What the jax-md interface accepts: states, positions, boxes, displacements."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from physnet_ase.potential import Potential
from physnet_ase.state import ElectronicState, num_electrons


class StateCheck:
    """Refuses bad states: concrete ones by raising, traced ones by returning False."""

    def __init__(
        self, potential: Potential, numbers: np.ndarray, allow_unseen_states: bool
    ) -> None:
        self.potential, self.numbers = potential, numbers
        self.allow_unseen_states = allow_unseen_states

    def __call__(
        self, charge: Any, multiplicity: Any
    ) -> tuple[Int[Array, ""], Int[Array, ""], Bool[Array, ""]]:
        """Return charge and multiplicity as int32 scalars, and whether they may be."""
        traced = isinstance(charge, jax.core.Tracer) or isinstance(
            multiplicity, jax.core.Tracer
        )
        if not traced:
            state = ElectronicState(charge, multiplicity)
            self.potential.check(
                self.numbers, state, allow_unseen_states=self.allow_unseen_states
            )
            charge, multiplicity = state.charge, state.multiplicity
        charge, multiplicity = jnp.asarray(charge), jnp.asarray(multiplicity)
        q, m = charge.astype(jnp.int32), multiplicity.astype(jnp.int32)
        allowed = (q == charge) & (m == multiplicity) if traced else jnp.asarray(True)
        return q, m, allowed & self._allowed(q, m)

    def _allowed(self, q: Int[Array, ""], m: Int[Array, ""]) -> Bool[Array, ""]:
        """What ``potential.check`` refuses, as array operations."""
        electrons, unpaired = num_electrons(self.numbers, 0) - q, m - 1
        possible = (unpaired >= 0) & (unpaired <= electrons)
        possible &= (electrons - unpaired) % 2 == 0
        if self.allow_unseen_states:
            charges = self.potential.config.charge_range
            spins = self.potential.config.spin_range
            known = (q >= charges[0]) & (q <= charges[1])
            return possible & known & (m >= spins[0]) & (m <= spins[1])
        seen = [(q == s.charge) & (m == s.multiplicity) for s in self.potential.states]
        return possible & jnp.any(jnp.stack(seen))


def atomic_numbers(species: Any) -> np.ndarray:
    """Atomic numbers as int32, shape (N,); refuses anything else."""
    numbers = np.asarray(species)
    if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
        raise ValueError(
            "species must be the atomic numbers, integers of shape (N,), got "
            f"{numbers.dtype} of shape {numbers.shape}"
        )
    return numbers.astype(np.int32)


def check_positions(position: Any, dtype: np.dtype[Any], count: int) -> None:
    """Refuse positions of another dtype than the potential's, or of another shape."""
    if position.dtype != dtype:
        raise ValueError(
            f"positions are {position.dtype} but the potential computes in {dtype}: "
            f'pass positions.astype("{dtype}"), or build the energy function from a '
            "potential of their dtype (potential.astype, float32 or float64)"
        )
    if position.shape != (count, 3):
        raise ValueError(
            f"positions must have shape ({count}, 3) for {count} species, got "
            f"{position.shape}; use jax.vmap over replicas"
        )


def check_box(box: Any, cutoff: float) -> Any:
    """Whether the box is twice the cutoff thick; raise if a concrete one is not."""
    traced = isinstance(box, jax.core.Tracer)
    # Inside jit, jax.numpy would trace a concrete box too: nothing could raise then.
    xp: Any = jnp if traced else np
    box = xp.asarray(box)
    if box.shape not in ((), (3,), (3, 3)):
        raise ValueError(
            "box must be a length, three lengths or a 3x3 matrix in Å, got shape "
            f"{box.shape}"
        )
    matrix = box if box.ndim == 2 else xp.diag(xp.broadcast_to(box, (3,)))
    edges = (1, 2, 0), (2, 0, 1)
    faces = xp.cross(matrix[:, edges[0]], matrix[:, edges[1]], axis=0)
    areas = xp.sqrt(xp.sum(faces**2, axis=0))
    thickness = xp.min(xp.abs(xp.linalg.det(matrix)) / xp.maximum(areas, 1e-12))
    wide = thickness >= 2.0 * cutoff
    if not traced and not wide:
        raise ValueError(
            f"the box is {float(thickness):.3f} Å thick; a cutoff of {cutoff} Å needs "
            f"at least {2.0 * cutoff} Å, as jax-md sees only the nearest image. Repeat "
            "the cell, or use the ASE calculator, which counts all images"
        )
    return wide


def is_periodic(
    displacement_fn: Callable[..., Any],
    box: Any,
    dtype: np.dtype[Any],
    fractional_coordinates: bool,
) -> bool:
    """Whether ``displacement_fn`` is periodic in ``box``; free space is not.

    Raises:
        ValueError: It wraps distances, but in no box or in another one.
    """
    origin = jnp.zeros(3, dtype)
    far = jnp.asarray([1e3, 1e3, 1e3], dtype)
    length = float(jnp.linalg.norm(displacement_fn(far, origin)))
    if np.isclose(length, 1e3 * 3**0.5, rtol=1e-3):
        if box is not None:
            warnings.warn(
                "displacement_fn does not wrap distances, so this is an open system "
                "and its box is not used; pass box=None to say so, or "
                "jax_md.space.periodic(box) for a periodic one",
                UserWarning,
                stacklevel=3,
            )
        return False
    if box is None:
        raise ValueError(
            "displacement_fn wraps distances but box is None; pass its box, or use "
            "jax_md.space.free() for an open system"
        )
    matrix = box if box.ndim == 2 else jnp.diag(jnp.broadcast_to(box, (3,)))
    image = (
        jnp.ones(3, dtype) if fractional_coordinates else matrix @ jnp.ones(3, dtype)
    )
    length = float(jnp.linalg.norm(displacement_fn(image, origin)))
    if length > 1e-2 * float(jnp.max(jnp.abs(matrix))):
        raise ValueError(
            f"an atom and its image are {length:.3f} Å apart under displacement_fn; it "
            "must be periodic in the same box (and the same kind of coordinates)"
        )
    return True
