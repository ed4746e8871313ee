"""Dynamics and relaxation of one or many systems in any states.

Time is in fs, mass in amu, energy in eV.
"""

from physnet_ase.minimization import RelaxationError as RelaxationError
from physnet_ase.minimization import Relaxed as Relaxed
from physnet_ase.minimization import relax as relax
from physnet_ase.simulate.run import SimulationProgress as SimulationProgress
from physnet_ase.simulate.run import run as run
from physnet_ase.simulate.settings import SimulationSettings as SimulationSettings
from physnet_ase.simulate.trajectory import Trajectory as Trajectory
from physnet_ase.simulate.trajectory import energy_drift as energy_drift
