"""Zero-point energies of minima, and the refusal to add them to anything else."""

from collections.abc import Sequence

from ase import Atoms

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.harmonic import Vibrations, vibrations
from physnet_ase.results import Kind


def check_zero_point(kind: Kind, zero_point: bool) -> None:
    """Raise when a zero-point correction is asked for vertical energies.

    Raises:
        ValueError: It is.
    """
    if zero_point and kind == "vertical":
        raise ValueError(
            "zero_point=True needs kind='adiabatic': a vertical energy ends at a "
            "geometry that is no minimum of the final state and has no zero-point level"
        )


def minimum_vibrations(
    geometries: Sequence[Atoms], calculator: PhysNetCalculator
) -> list[Vibrations]:
    """Vibrations of relaxed geometries, which must be minima.

    Args:
        geometries: Relaxed; ``info`` holds the state of each.
        calculator: The calculator.

    Raises:
        RuntimeError: A geometry is a saddle point.
    """
    found = vibrations(list(geometries), calculator, fmax=None)
    for one in found:
        one.check_minimum()
    return found


def zero_point_energies(
    geometries: Sequence[Atoms], calculator: PhysNetCalculator, *, wanted: bool
) -> tuple[float, ...] | None:
    """½ Σ ħω in eV of each relaxed geometry, or ``None`` unless ``wanted``.

    Raises:
        RuntimeError: A geometry is a saddle point.
    """
    if not wanted:
        return None
    return tuple(one.value for one in minimum_vibrations(geometries, calculator))
