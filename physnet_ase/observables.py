"""Electronic observables in one call: eV in, eV out, the user's atoms untouched.

Each takes one molecule, or a list of them for a list of results, and a
``PhysNetCalculator``; each docstring defines its quantity. Energies are electronic
unless an option adds zero-point or thermal terms. The vertical evaluations of a call
share one batch, over states and over molecules.
"""

from physnet_ase.crossing import (
    minimum_energy_crossing_point as minimum_energy_crossing_point,
)
from physnet_ase.electron_transfer import electron_affinity as electron_affinity
from physnet_ase.electron_transfer import ionization_energy as ionization_energy
from physnet_ase.electron_transfer import reorganization_energy as reorganization_energy
from physnet_ase.harmonic import Vibrations as Vibrations
from physnet_ase.harmonic import vibrations as vibrations
from physnet_ase.protonation import ProtonAffinity as ProtonAffinity
from physnet_ase.protonation import ProtonationSite as ProtonationSite
from physnet_ase.protonation import proton_affinity as proton_affinity
from physnet_ase.reactivity import ReactivityIndices as ReactivityIndices
from physnet_ase.reactivity import fukui_functions as fukui_functions
from physnet_ase.reactivity import reactivity_indices as reactivity_indices
from physnet_ase.redox import REFERENCE_ELECTRODES as REFERENCE_ELECTRODES
from physnet_ase.redox import RedoxPotential as RedoxPotential
from physnet_ase.redox import redox_potential as redox_potential
from physnet_ase.relaxation import Relaxation as Relaxation
from physnet_ase.results import CrossingPoint as CrossingPoint
from physnet_ase.results import EnergyDifference as EnergyDifference
from physnet_ase.results import FukuiFunctions as FukuiFunctions
from physnet_ase.results import Levels as Levels
from physnet_ase.results import Observable as Observable
from physnet_ase.results import ReorganizationEnergy as ReorganizationEnergy
from physnet_ase.results import StateEnergies as StateEnergies
from physnet_ase.spin_states import scan_states as scan_states
from physnet_ase.spin_states import singlet_triplet_gap as singlet_triplet_gap
from physnet_ase.spin_states import spin_ladder as spin_ladder
from physnet_ase.thermodynamics import Thermochemistry as Thermochemistry
from physnet_ase.thermodynamics import thermochemistry as thermochemistry
from physnet_ase.thermodynamics import thermochemistry_of as thermochemistry_of
