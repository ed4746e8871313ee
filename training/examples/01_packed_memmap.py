"""A packed dataset on its own: write, open, batch. Nothing here needs JAX.

    python training/examples/01_packed_memmap.py --out packed-example

Two ways to write one (your own arrays; a data file that is converted), what stands on
disk, and the two kinds of batches that the loader makes from it. The folder given by
--out must not exist yet.
"""

import argparse
import time
from itertools import islice
from pathlib import Path

import numpy as np
from ase.build import molecule
from physnet_training import PackedMemmapLoader, split_loader
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset, PackedWriter

from physnet_ase.molecules import Molecules

DATA = Path(__file__).resolve().parents[1] / "data" / "states_dft" / "states_dft.npz"


def write_own_arrays(target: Path) -> None:
    """Water, neutral and as cation, from plain arrays; forces are left out."""
    water = molecule("H2O")
    with PackedWriter(target) as writer:  # under its name only when complete
        for charge, multiplicity, energy in ((0, 1, -2077.0), (1, 2, -2064.5)):
            water.info = {"charge": charge, "spin_multiplicity": multiplicity}
            one = Molecules.from_atoms([water])
            writer.append(one.with_values(energy=np.array([energy])))  # eV, made up
    dataset = PackedDataset.open(target)
    print(f"{target.name}: {len(dataset)} molecules, labels {dataset.labels}")


def describe(dataset: PackedDataset) -> None:
    """What a dataset knows about itself, and its files."""
    print(f"\n{dataset.path.name}: {dataset.num_molecules} molecules")
    print(f"  elements {dataset.elements}, labels {dataset.labels}")
    for (charge, multiplicity), count in dataset.states.items():
        print(f"  charge {charge:+d}, multiplicity {multiplicity}: {count}")
    for file in sorted(dataset.path.iterdir()):
        print(f"  {file.name:20s} {file.stat().st_size:>9,} bytes")
    print(f"  {dataset.verify()} checksums agree")


def main() -> None:
    """Write, open, batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("packed-example"))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--smoke", action="store_true", help="read one epoch only")
    options = parser.parse_args()

    write_own_arrays(options.out / "own")
    report = convert(DATA, options.out / "states_dft")
    print(f"units of {DATA.name}: {report.sources[0].units}")
    dataset = PackedDataset.open(options.out / "states_dft")
    describe(dataset)

    # Membership in a part depends on (seed, molecule) only, never on the batch size.
    loader = PackedMemmapLoader(dataset, options.batch_size, seed=0)
    training, validation = split_loader(loader, train_fraction=0.9, seed=0)
    print(f"\ntraining {training.num_molecules}, validation {validation.num_molecules}")

    print("\nDense batch, one row per molecule (filler rows of a short batch: N = 0):")
    batch = next(training.batches())
    for name, array in batch.items():
        print(f"  {name:14s} {array.dtype!s:8s} {array.shape}")

    print("\nGraph of the same loader, flat atoms and pairs within 6 Å, padded:")
    graph = next(training.graphs(cutoff=6.0))
    for name in ("atomic_numbers", "senders", "long_senders", "total_charge"):
        print(f"  {name:14s} {getattr(graph, name).shape}")
    print(f"  real atoms {graph.atom_mask.sum()}, real pairs {graph.pair_mask.sum()}")
    print(f"  static shapes of the whole epoch: {len(training.shapes)}")

    # The position is a few integers; store them to continue exactly there.
    position = training.state()
    following = next(training.batches())["index"]
    again = training.subset(training.indices)
    again.restore(position)
    same = np.array_equal(following, next(again.batches())["index"])
    print(f"\nstate {position}\nthe restored loader continues identically: {same}")

    epochs = 1 if options.smoke else 20
    started, molecules = time.perf_counter(), 0
    for _ in range(epochs):
        for batch in islice(again.batches(), again.num_batches):
            molecules += int((batch["N"] > 0).sum())
    seconds = time.perf_counter() - started
    print(f"{molecules} molecules in dense batches: {molecules / seconds:,.0f} per s")


if __name__ == "__main__":
    main()
