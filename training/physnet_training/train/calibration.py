"""What the spread of a model's heads is worth: spread against error."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.graph import Graph
from physnet_ase.potential import Potential
from physnet_ase.quantities import QUANTITIES

Array = NDArray[Any]
_CALIBRATED = ("energy", "forces")


def spreads(
    potential: Potential,
    graph: Graph,
    outputs: Mapping[str, Any],
    names: Collection[str],
) -> dict[str, Array]:
    """Standard deviations over the heads; nothing of a model with one.

    Args:
        potential: The model.
        graph: What it was asked about.
        outputs: What it said.
        names: Labels that are evaluated.

    Returns:
        ``energy_std`` [molecules] eV and, where forces are evaluated, ``forces_std``
        [atoms, 3] eV/Å, with padding.
    """
    if potential.num_members == 1:
        return {}
    apart = np.asarray(outputs["deviations"], np.float64)[:, :, 0]
    sums = np.zeros((len(graph.total_charge), apart.shape[1]))
    np.add.at(sums, graph.molecule_index, apart)
    found = {"energy_std": sums.std(axis=1)}
    if "forces" in names:
        forces = np.asarray(potential.run(graph, "member_forces")["member_forces"])
        found["forces_std"] = forces.std(axis=1, dtype=np.float64)
    return {name: each for name, each in found.items() if name[:-4] in names}


def errors_and_spreads(values: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
    """Sizes of errors, and spreads: of molecules' energies, and of forces on atoms.

    Args:
        values: As ``Predictions.values`` has them.
    """
    found = {}
    for name in _CALIBRATED:
        if f"{name}_std" not in values:
            continue
        error = values[name] - values[f"{name}_label"]
        pair = [
            np.linalg.norm(each.reshape(len(each), -1), axis=1)
            for each in (error, values[f"{name}_std"])
        ]
        known = np.isfinite(pair[0])
        if known.any():
            found[name] = (pair[0][known], pair[1][known])
    return found


def calibration(values: Mapping[str, Array]) -> list[dict[str, Any]]:
    """How well spreads tell errors, one row for each quantity that has them.

    ``spearman`` correlates the ranks of both: 1 where the larger spread always has the
    larger error. ``rmse_per_spread`` is the factor that brings spreads to the size of
    errors; 1 is calibrated.

    Args:
        values: As ``Predictions.values`` has them.
    """
    rows = []
    for name, (error, spread) in errors_and_spreads(values).items():
        unit = QUANTITIES[name].error_unit
        rmse, size = (float(np.sqrt(np.mean(each**2))) for each in (error, spread))
        ranked = len(error) > 1 and np.ptp(error) > 0 and np.ptp(spread) > 0
        first, second = (each.argsort().argsort() for each in (error, spread))
        rows.append(
            {
                "quantity": name,
                "count": len(error),
                "spearman": float(np.corrcoef(first, second)[0][1]) if ranked else None,
                f"rmse_{unit}": rmse,
                f"spread_{unit}": size,
                "rmse_per_spread": rmse / size if size > 0 else None,
            }
        )
    return rows
