"""Charge- and spin-aware PhysNet potentials for ASE and jax-md.

The public names are loaded on first use, so that ``import physnet_ase`` costs nothing:
neither JAX nor jax-md is imported before a name needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physnet_ase import jaxmd as jaxmd
    from physnet_ase import simulate as simulate
    from physnet_ase import units as units
    from physnet_ase.calculator import PhysNetCalculator as PhysNetCalculator
    from physnet_ase.calculator import SumOfCalculators as SumOfCalculators
    from physnet_ase.observables import electron_affinity as electron_affinity
    from physnet_ase.observables import fukui_functions as fukui_functions
    from physnet_ase.observables import ionization_energy as ionization_energy
    from physnet_ase.observables import (
        minimum_energy_crossing_point as minimum_energy_crossing_point,
    )
    from physnet_ase.observables import proton_affinity as proton_affinity
    from physnet_ase.observables import reactivity_indices as reactivity_indices
    from physnet_ase.observables import redox_potential as redox_potential
    from physnet_ase.observables import reorganization_energy as reorganization_energy
    from physnet_ase.observables import scan_states as scan_states
    from physnet_ase.observables import singlet_triplet_gap as singlet_triplet_gap
    from physnet_ase.observables import spin_ladder as spin_ladder
    from physnet_ase.observables import thermochemistry as thermochemistry
    from physnet_ase.observables import vibrations as vibrations
    from physnet_ase.potential import Potential as Potential
    from physnet_ase.potential import load_potential as load_potential
    from physnet_ase.state import ElectronicState as ElectronicState
    from physnet_ase.untrained import untrained_potential as untrained_potential

__version__ = "0.1.0"

_MODULES = {
    "calculator": ("PhysNetCalculator", "SumOfCalculators"),
    "observables": (
        "electron_affinity",
        "fukui_functions",
        "ionization_energy",
        "minimum_energy_crossing_point",
        "proton_affinity",
        "reactivity_indices",
        "redox_potential",
        "reorganization_energy",
        "scan_states",
        "singlet_triplet_gap",
        "spin_ladder",
        "thermochemistry",
        "vibrations",
    ),
    "potential": ("Potential", "load_potential"),
    "state": ("ElectronicState",),
    "untrained": ("untrained_potential",),
}
_SUBMODULES = ("jaxmd", "simulate", "units")
_EXPORTS = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted((*_EXPORTS, "__version__"))


def __getattr__(name: str) -> Any:
    """Import the module behind a public name on first use (PEP 562)."""
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
