"""Far fragments: what a spectator at fifty Å does to an ion, a triplet, a molecule.

For every pair of twelve molecules, and for each state that both fragments allow, the
energy of the two fifty Å apart is compared with the lowest sum of the model's own
energies of the fragments, over all ways to share charge and unpaired electrons. Only
states in which the two lowest ways differ by more than 1 eV count: there the excess
belongs to one fragment. Pairs that training never put together
(``loading.pairs.is_reserved``) are reported apart.

    python benchmarks/far_pairs.py MODEL [MODEL …] --json FILE
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from physnet_training.convert import convert
from physnet_training.loading.pairs import is_reserved
from physnet_training.packed import PackedDataset
from physnet_training.train.gaps import find_ladders, frames_by_energy

from physnet_ase import ElectronicState, Potential, load_potential

ROOT = Path(__file__).resolve().parents[1]
LADDERS = ROOT / "training" / "data" / "states_dft" / "ladders.npz"
MOLECULES = (
    "H2O",
    "NH3",
    "CH4",
    "H2CO",
    "C2H4",
    "C2H6",
    "CO",
    "N2",
    "HF",
    "N2H4",
    "H2",
    "F2",
)
DISTANCE = 50.0  # Å
TOTALS = {
    "neutral": ElectronicState(0, 1),
    "cation": ElectronicState(1, 2),
    "anion": ElectronicState(-1, 2),
    "triplet": ElectronicState(0, 3),
}
FRAGMENT_STATES = {
    "neutral": [((0, 1), (0, 1))],
    "cation": [((1, 2), (0, 1)), ((0, 1), (1, 2))],
    "anion": [((-1, 2), (0, 1)), ((0, 1), (-1, 2))],
    "triplet": [((0, 3), (0, 1)), ((0, 1), (0, 3))],
}
CLEAR = 1.0  # eV between the two ways to share


def errors(potential: Potential, molecules: dict[str, Atoms]) -> list[dict[str, Any]]:
    """Error in meV of every pair in every state that counts."""
    states = [ElectronicState(*s) for s in ((0, 1), (1, 2), (-1, 2), (0, 3))]
    names = list(molecules)
    table = potential.evaluate([molecules[n] for n in names], states, ("energy",))
    own = {
        name: {
            (s.charge, s.multiplicity): r.energy
            for s, r in zip(states, row, strict=True)
        }
        for name, row in zip(names, table, strict=True)
    }
    pairs = list(itertools.combinations(names, 2))
    systems = []
    for one, two in pairs:
        moved = molecules[two].copy()
        moved.positions += [DISTANCE, 0.0, 0.0]
        systems.append(molecules[one] + moved)
    together = potential.evaluate(systems, list(TOTALS.values()), ("energy",))
    rows = []
    for (one, two), results in zip(pairs, together, strict=True):
        for kind, result in zip(TOTALS, results, strict=True):
            ways = sorted(own[one][a] + own[two][b] for a, b in FRAGMENT_STATES[kind])
            if len(ways) > 1 and ways[1] - ways[0] < CLEAR:
                continue
            rows.append(
                {
                    "pair": [one, two],
                    "state": kind,
                    "reserved": is_reserved(one, two),
                    "error_mev": 1000.0 * (result.energy - ways[0]),
                }
            )
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, median and worst size of the errors per state, all and reserved pairs."""
    found: dict[str, Any] = {}
    for part, chosen in (
        ("all pairs", rows),
        ("pairs never put together", [row for row in rows if row["reserved"]]),
    ):
        for kind in ("neutral", "cation", "anion", "triplet", "charged or triplet"):
            sizes = np.array(
                [
                    abs(row["error_mev"])
                    for row in chosen
                    if row["state"] == kind
                    or (kind == "charged or triplet" and row["state"] != "neutral")
                ]
            )
            if len(sizes):
                found.setdefault(part, {})[kind] = {
                    "count": len(sizes),
                    "mean_mev": round(float(sizes.mean()), 3),
                    "median_mev": round(float(np.median(sizes)), 3),
                    "worst_mev": round(float(sizes.max()), 3),
                }
    return found


def main() -> None:
    """Print the figures, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="model directories or names")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--data", type=Path, default=Path("far_pairs_data"))
    options = parser.parse_args()
    if not options.data.exists():
        convert(LADDERS, options.data)
    dataset = PackedDataset.open(options.data)
    frames = frames_by_energy(find_ladders(dataset, np.arange(len(dataset))))
    molecules = {name: frames[name][0].atoms() for name in MOLECULES}
    report = {}
    for model in options.models:
        report[model] = summary(errors(load_potential(model), molecules))
        print(model, json.dumps(report[model], indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
