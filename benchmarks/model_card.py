"""Measure the pretrained model and write its card.

    python benchmarks/model_card.py

Converts the shipped data, divides it as the recipe did, and measures the model on the
geometries and on the whole molecules it was not trained on: energy and forces per
state, and the vertical ionization energy, electron affinity and singlet-triplet gap.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.train.evaluate import evaluate_potential
from physnet_training.train.gaps import compare_gaps, find_ladders, gap_errors
from physnet_training.train.recipe import Recipe, load_recipe
from physnet_training.train.run import open_data
from physnet_training.train.split import make_split

from physnet_ase import load_potential
from physnet_ase.potential import Potential

NAME = "states-dft-small"
ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "training" / "recipes" / "states_dft_small.toml"
CARD = ROOT / "physnet_ase" / "pretrained" / NAME / "README.md"
GAPS = {
    "ionization_energy": "ionization energy",
    "electron_affinity": "electron affinity (reference above 0.2 eV)",
    "singlet_triplet_gap": "singlet–triplet gap",
}


TEMPLATE = """# {name}

A small charge- and spin-conditioned PhysNet for H, C, N, O, F molecules of one or two
heavy atoms, with {weights} weights. It serves to try the package and for the molecules
it was trained on; it is not a model of chemistry at large.

* Made by `physnet-train train training/recipes/states_dft_small.toml --out RUN` from
  `training/data/states_dft` (wB97X/def2-SVPD, 34 species): {labels} labels. Of
  {all_steps} steps on two shared CPU cores, step {steps} ({minutes} minutes in) had the
  lowest validation loss and was kept.
* States seen, as (charge, 2S+1): {states}.
  Others are refused.
* Not trained on: 10 % of the geometries (seed {seed}; all states of one geometry stay
  together), which chose the step that was kept; and every geometry of five molecules,
  {held}, which chose nothing.
* Licence: Apache-2.0, as the package; the data was made for this project.

Errors in meV and meV/Å, measured by `python benchmarks/model_card.py`.

## Geometries not trained on, of molecules it knows

{validation}

## Molecules not trained on

{test}

## Limits

* A molecule it was not trained on can be wrong by more than an electronvolt, as the
  last tables show: do not trust a gap of a molecule that is not in the data.
* Some labels cannot be learned: where a symmetric geometry has a degenerate state (the
  cation of methane at its tetrahedron), the DFT solution breaks the symmetry and the
  forces with it. They make the large RMSE of forces in high-spin ions.
* Labels of anions that are not bound (electron affinity below 0.2 eV) are artefacts of
  the basis set, and the model has learned them.
* Singlets are spin-restricted: those of O2 and its kind lie too high.
* Charges follow the dipole labels, spin populations the Mulliken ones.
"""


def measure(potential: Potential, dataset: PackedDataset, rows: np.ndarray) -> str:
    """Tables of energy, force and gap errors of some molecules, in Markdown."""
    loader = PackedMemmapLoader(dataset, 128).subset(rows, shuffle=False)
    table = evaluate_potential(potential, loader).errors()
    lines = [
        "| charge | 2S+1 | labels | energy MAE | RMSE | forces MAE | RMSE |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in table:
        state = (
            ("all", "all")
            if row["charge"] is None
            else (f"{row['charge']:+d}" if row["charge"] else "0", row["multiplicity"])
        )
        lines.append(
            f"| {state[0]} | {state[1]} | {row['molecules']} | "
            f"{_mev(row['energy_mae_ev'])} | {_mev(row['energy_rmse_ev'])} | "
            f"{_mev(row['forces_mae_ev_per_angstrom'])} | "
            f"{_mev(row['forces_rmse_ev_per_angstrom'])} |"
        )
    lines += [
        "",
        "| vertical | number | MAE (eV) | RMSE (eV) |",
        "|---|---:|---:|---:|",
    ]
    errors = gap_errors(compare_gaps(potential, find_ladders(dataset, rows)))
    for kind, row in errors.items():
        lines.append(
            f"| {GAPS[kind]} | {row['count']} | {row['mae_ev']:.3f} | "
            f"{row['rmse_ev']:.3f} |"
        )
    return "\n".join(lines)


def _mev(value: float | None) -> str:
    return "–" if value is None else f"{1000 * value:.0f}"


def write_card(potential: Potential, recipe: Recipe, tables: dict[str, str]) -> None:
    """Write the card next to the weights."""
    training: dict[str, Any] = potential.metadata.training
    states = ", ".join(f"({s.charge}, {s.multiplicity})" for s in potential.states)
    facts = {
        "name": NAME,
        "weights": f"{sum(array.size for array in _leaves(potential.params)):,}",
        "labels": f"{training['training_molecules']:,}",
        "steps": f"{training['steps']:,}",
        "minutes": f"{training['seconds'] / 60:.0f}",
        "all_steps": f"{recipe.optimizer.steps:,}",
        "seed": recipe.split.seed,
        "states": states,
        "held": ", ".join(recipe.split.holdout_groups),
        **tables,
    }
    CARD.write_text(TEMPLATE.format(**facts))


def _leaves(tree: Any) -> list[np.ndarray]:
    if isinstance(tree, dict):
        return [leaf for branch in tree.values() for leaf in _leaves(branch)]
    return [tree]


def main() -> None:
    """Measure and write."""
    recipe = load_recipe(RECIPE)
    potential = load_potential(NAME)
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_data(recipe, Path(folder))
        split = make_split(dataset, recipe.split)
        tables = {
            part: measure(potential, dataset, getattr(split, part))
            for part in ("validation", "test")
        }
    write_card(potential, recipe, tables)
    print(CARD.read_text())


if __name__ == "__main__":
    main()
