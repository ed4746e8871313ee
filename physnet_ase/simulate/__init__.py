"""Molecular dynamics: NVE, NVT and NPT of one or many systems in any states.

Time is in fs, mass in amu, energy in eV.
"""

from physnet_ase.simulate.run import SimulationProgress as SimulationProgress
from physnet_ase.simulate.run import run as run
from physnet_ase.simulate.settings import SimulationSettings as SimulationSettings
from physnet_ase.simulate.trajectory import Trajectory as Trajectory
from physnet_ase.simulate.trajectory import energy_drift as energy_drift
