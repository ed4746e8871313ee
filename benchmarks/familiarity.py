"""Whether the familiarity score tells where a model is wrong: flags and false alarms.

The pretrained model is asked for vertical ionization energies, electron affinities
(above 0.2 eV) and singlet-triplet gaps of the labelled organic molecules, most of which
it never saw. Of those that are wrong by more than 0.3 eV the score should flag nearly
all; of the validation geometries of molecules that it knows, nearly none.

    python benchmarks/familiarity.py --json benchmarks/familiarity.json
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.train.gaps import GapComparison, compare_gaps, find_ladders
from physnet_training.train.recipe import load_recipe
from physnet_training.train.run import open_data
from physnet_training.train.split import make_split

from physnet_ase import load_potential

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "training" / "recipes" / "states_dft_small.toml"
LABELS = ROOT / "training" / "data" / "states_organic" / "states_organic.npz"
WRONG = 0.3  # eV
LOWEST_AFFINITY = 0.2  # eV; below it the anion is an artefact of the basis


def main() -> None:
    """Print the figures, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # that molecules are unfamiliar
    potential = load_potential("states-dft-small")
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(RECIPE)
        known = open_data(recipe, Path(folder) / "known")
        part = make_split(known, recipe.split).validation
        scores = np.array([v.score for v in potential.known(known.molecules(part))])
        convert(LABELS, Path(folder) / "organic", on_invalid="skip")
        organic = PackedDataset.open(Path(folder) / "organic")
        gaps: list[tuple[GapComparison, float]] = []
        for ladder in find_ladders(organic, np.arange(len(organic))):
            if not set(ladder.numbers.tolist()) <= set(potential.elements):
                continue
            verdict = potential.known(organic.molecules(np.array(ladder.rows[:1])))[0]
            gaps += [(gap, verdict.score) for gap in compare_gaps(potential, [ladder])]
    gaps = [
        (gap, score)
        for gap, score in gaps
        if gap.kind != "electron_affinity" or gap.reference > LOWEST_AFFINITY
    ]
    wrong = np.array([abs(gap.error) > WRONG for gap, _ in gaps])
    flagged = np.array([score > 1.0 for _, score in gaps])
    report = {
        "command": "python benchmarks/familiarity.py",
        "gaps": len(gaps),
        "wrong": int(wrong.sum()),
        "flagged_among_wrong": float(flagged[wrong].mean()),
        "validation_geometries": len(scores),
        "false_alarms": float((scores > 1.0).mean()),
    }
    print(json.dumps(report, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
