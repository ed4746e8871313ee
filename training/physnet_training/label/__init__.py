"""Labels from quantum chemistry: structures, states and geometries, on an executor.

``from physnet_training.label import Plan, label, read_structures``.
"""

from physnet_training.label.calculators import Method as Method
from physnet_training.label.output import collect as collect
from physnet_training.label.plan import Chain as Chain
from physnet_training.label.plan import Plan as Plan
from physnet_training.label.plan import Structure as Structure
from physnet_training.label.plan import parse_states as parse_states
from physnet_training.label.plan import read_structures as read_structures
from physnet_training.label.plan import smiles_structure as smiles_structure
from physnet_training.label.run import LabelReport as LabelReport
from physnet_training.label.run import Run as Run
from physnet_training.label.run import label as label
from physnet_training.label.sampling import Sampling as Sampling
