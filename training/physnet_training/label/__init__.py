"""Labels from quantum chemistry: structures, states and geometries, on an executor.

``from physnet_training.label import Plan, label, read_structures``; names are loaded on
first use, since the command needs none of them to start.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_EXPORTS = {
    "Chain": "plan",
    "LabelReport": "run",
    "Method": "calculators",
    "Plan": "plan",
    "Run": "run",
    "Sampling": "sampling",
    "Structure": "plan",
    "collect": "output",
    "label": "run",
    "parse_states": "plan",
    "read_structures": "plan",
    "smiles_structure": "plan",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import the module behind a public name on first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value
