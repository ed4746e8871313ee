"""Electronic observables in one call: eV in, eV out, the user's atoms untouched.

Each takes one molecule, or a list of them for a list of results, and a
``PhysNetCalculator``; each docstring defines its quantity. Energies are electronic
unless an option adds zero-point or thermal terms. The vertical evaluations of a call
share one batch, over states and over molecules.
"""

from physnet_ase.observables.crossing import (
    minimum_energy_crossing_point as minimum_energy_crossing_point,
)
from physnet_ase.observables.electron_transfer import (
    electron_affinity as electron_affinity,
)
from physnet_ase.observables.electron_transfer import (
    ionization_energy as ionization_energy,
)
from physnet_ase.observables.electron_transfer import (
    reorganization_energy as reorganization_energy,
)
from physnet_ase.observables.harmonic import Vibrations as Vibrations
from physnet_ase.observables.harmonic import vibrations as vibrations
from physnet_ase.observables.protonation import ProtonAffinity as ProtonAffinity
from physnet_ase.observables.protonation import ProtonationSite as ProtonationSite
from physnet_ase.observables.protonation import proton_affinity as proton_affinity
from physnet_ase.observables.reactivity import ReactivityIndices as ReactivityIndices
from physnet_ase.observables.reactivity import fukui_functions as fukui_functions
from physnet_ase.observables.reactivity import reactivity_indices as reactivity_indices
from physnet_ase.observables.redox import REFERENCE_ELECTRODES as REFERENCE_ELECTRODES
from physnet_ase.observables.redox import RedoxPotential as RedoxPotential
from physnet_ase.observables.redox import redox_potential as redox_potential
from physnet_ase.observables.relaxation import Relaxation as Relaxation
from physnet_ase.observables.results import CrossingPoint as CrossingPoint
from physnet_ase.observables.results import EnergyDifference as EnergyDifference
from physnet_ase.observables.results import FukuiFunctions as FukuiFunctions
from physnet_ase.observables.results import Levels as Levels
from physnet_ase.observables.results import Observable as Observable
from physnet_ase.observables.results import ReorganizationEnergy as ReorganizationEnergy
from physnet_ase.observables.results import StateEnergies as StateEnergies
from physnet_ase.observables.spin_states import scan_states as scan_states
from physnet_ase.observables.spin_states import (
    singlet_triplet_gap as singlet_triplet_gap,
)
from physnet_ase.observables.spin_states import spin_ladder as spin_ladder
from physnet_ase.observables.thermodynamics import Thermochemistry as Thermochemistry
from physnet_ase.observables.thermodynamics import thermochemistry as thermochemistry
from physnet_ase.observables.thermodynamics import (
    thermochemistry_of as thermochemistry_of,
)
