"""Far fragments: what a spectator at fifty Å does to an ion, a triplet, a molecule.

For every pair of twelve molecules, and for each state that both fragments allow, the
energy of the two fifty Å apart is compared with the lowest sum of the model's own
energies of the fragments, over all ways to share charge and unpaired electrons. Only
states in which the two lowest ways differ by more than 1 eV count: there the excess
belongs to one fragment. Pairs that training never put together
(``loading.pairs.is_reserved``) are reported apart. ``--network`` measures the network
besides, one charge and one multiplicity for both fragments, before anything is cut.

    python benchmarks/far_pairs.py MODEL [MODEL …] [--network] --json FILE
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from physnet_training.convert import convert
from physnet_training.loading.pairs import is_reserved
from physnet_training.packed import PackedDataset
from physnet_training.train.gaps import find_ladders, frames_by_energy

from physnet_ase import ElectronicState, Potential, load_potential
from physnet_ase.evaluation import Batch
from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import evaluation_pairs

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


def network_energies(potential: Potential, system: Atoms) -> list[float]:
    """What the network says of both fragments as one molecule, eV, in each state."""
    found = []
    for state in TOTALS.values():
        molecules = Molecules.from_atoms([system], [state])
        batch = Batch(molecules, evaluation_pairs(molecules, potential.config.cutoff))
        [values] = batch.values(potential.programs, potential.references, ("energy",))
        found.append(values["energy"])
    return found


def errors(
    potential: Potential, molecules: dict[str, Atoms], *, network: bool
) -> list[dict[str, Any]]:
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
    if network:
        together = [network_energies(potential, system) for system in systems]
    else:
        found = potential.evaluate(systems, list(TOTALS.values()), ("energy",))
        together = [[result.energy for result in row] for row in found]
    rows = []
    for (one, two), energies in zip(pairs, together, strict=True):
        for kind, energy in zip(TOTALS, energies, strict=True):
            ways = sorted(own[one][a] + own[two][b] for a, b in FRAGMENT_STATES[kind])
            if len(ways) > 1 and ways[1] - ways[0] < CLEAR:
                continue
            rows.append(
                {
                    "pair": [one, two],
                    "state": kind,
                    "reserved": is_reserved(one, two),
                    "error_mev": 1000.0 * (energy - ways[0]),
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
    parser.add_argument("--network", action="store_true", help="alone, besides")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        convert(LADDERS, Path(folder) / "ladders")
        dataset = PackedDataset.open(Path(folder) / "ladders")
        frames = frames_by_energy(find_ladders(dataset, np.arange(len(dataset))))
        molecules = {name: frames[name][0].atoms() for name in MOLECULES}
    report = {}
    for model in options.models:
        for alone in (False, True)[: 1 + options.network]:
            found = errors(load_potential(model), molecules, network=alone)
            name = f"{model}, the network alone" if alone else model
            report[name] = summary(found)
            print(name, json.dumps(report[name], indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
