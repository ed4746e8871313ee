"""Any molecules with any labels, in any format: the same numbers come back."""

import numpy as np
import pytest
from data_files import (
    PER_MOLECULE,
    write_extxyz,
    write_hdf5,
    write_packed,
    write_padded,
    write_ragged,
    write_trajectory,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from physnet_training import PackedMemmapLoader
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset

from physnet_ase.quantities import QUANTITIES

WRITERS = {
    "ragged.npz": write_ragged,
    "padded.npz": write_padded,
    "frames.extxyz": write_extxyz,
    "frames.traj": write_trajectory,
    "groups.h5": write_hdf5,
    "packed": write_packed,
}
LABELS = ("energy", "forces", "dipole", "charges", "spin_populations", "stress")
KEYS = {
    "positions": "R",
    "forces": "F",
    "atomic_numbers": "Z",
    "energy": "E",
    "total_charge": "total_charge",
    "spin_multiplicity": "total_spin",
    "dipole": None,
    "charges": None,
    "spin_populations": None,
}
"""Field -> key of a dense batch, which holds fewer of them than a graph."""

MOLECULES = {
    "sizes": st.lists(st.integers(1, 6), min_size=1, max_size=10),
    "labels": st.sets(st.sampled_from(LABELS[1:])),
    "gaps": st.integers(0, 2**30),
    "seed": st.integers(0, 99),
}


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory):
    return lambda: tmp_path_factory.mktemp("round-trip")


@pytest.fixture(scope="module")
def with_gaps(make_molecules):
    """Molecules with some labels, of which some molecules lack some; one has all."""

    def make(sizes, labels, gaps, seed):
        molecules = make_molecules(sizes, ["energy", *sorted(labels)], seed=seed)
        ends, rng = np.cumsum(sizes), np.random.default_rng(gaps)
        for name in ("energy", *sorted(labels)):
            for row in np.flatnonzero(rng.random(len(sizes)) < 0.3):
                if row == 0:
                    continue
                own = slice(ends[row] - sizes[row], ends[row])
                molecules["values"][name][row if name in PER_MOLECULE else own] = np.nan
        return molecules

    return make


@settings(max_examples=40, deadline=None)
@given(file=st.sampled_from(sorted(WRITERS)), **MOLECULES)
def test_every_format_gives_the_numbers_back(
    new_folder, with_gaps, file, sizes, labels, gaps, seed
):
    folder, molecules = new_folder(), with_gaps(sizes, labels, gaps, seed)
    WRITERS[file](folder / file, molecules)
    convert(folder / file, folder / "set", allow_missing=True)
    dataset = PackedDataset.open(folder / "set")
    np.testing.assert_array_equal(dataset.n_atoms, molecules["n_atoms"])
    # extended XYZ is written with eight decimals
    absolute = 1e-8 if file == "frames.extxyz" else 0.0
    for name, wanted in molecules["values"].items():
        rows = np.arange(len(wanted))
        found = dataset.take(name, rows)
        precision = 1e-14 if QUANTITIES[name].dtype == "<f8" else 1e-7
        np.testing.assert_allclose(found, wanted, rtol=precision, atol=absolute)
    known = {n: _complete(molecules, n) for n in ("energy", *labels)}
    assert dataset.labels == {n: count for n, count in known.items() if count}


def _complete(molecules, name):
    """Number of molecules that have a label in full."""
    array = molecules["values"][name]
    finite = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if name in PER_MOLECULE:
        return int(finite.sum())
    ends = np.cumsum(molecules["n_atoms"])
    return sum(part.all() for part in np.split(finite, ends[:-1]))


@settings(max_examples=40, deadline=None)
@given(batch_size=st.integers(1, 8), **MOLECULES)
def test_both_kinds_of_batches_hold_what_is_on_disk(
    new_folder, with_gaps, batch_size, sizes, labels, gaps, seed
):
    folder, molecules = new_folder(), with_gaps(sizes, labels, gaps, seed)
    write_packed(folder / "set", molecules)
    loader = PackedMemmapLoader(folder / "set", batch_size, seed=seed)
    dense = list(loader.batches())
    loader = PackedMemmapLoader(folder / "set", batch_size, seed=seed)
    starts = np.cumsum(sizes) - sizes
    for index, graph in enumerate(loader.graphs()):
        rows, batch = loader.molecules(0, index), dense[index]
        atoms = np.concatenate([starts[r] + np.arange(sizes[r]) for r in rows])
        fields = {**graph._asdict(), **graph.labels.values}
        for name, key in KEYS.items():
            whole = name in PER_MOLECULE
            values = molecules["values"].get(name)
            wanted = np.nan if values is None else values[rows if whole else atoms]
            wanted = np.asarray(wanted, QUANTITIES[name].dtype)
            mask = graph.molecule_mask if whole else graph.atom_mask
            if name in fields:
                np.testing.assert_array_equal(fields[name][mask], wanted)
            else:  # what no molecule has is no part of the graph
                assert np.isnan(wanted).all()
            if key is not None:
                real = batch["N"] > 0 if whole else batch["mask"]
                np.testing.assert_array_equal(batch[key][real], wanted)
    assert index + 1 == len(dense)
