"""Graph batches: the same numbers as on disk, in few static shapes."""

import ase.build
import numpy as np
import pytest
from data_files import molecules_of
from hypothesis import given, settings
from hypothesis import strategies as st
from physnet_training import PackedMemmapLoader
from physnet_training.loading.shapes import MAX_SHAPES
from physnet_training.packed import PackedDataset, PackedWriter

from physnet_ase.graph import Capacity
from physnet_ase.neighbors import pairs_from

LABELS = ("energy", "forces", "dipole", "charges", "spin_populations")
PER_ATOM = ("forces", "charges", "spin_populations")


def check_padding(graph, slots):
    """What the docstring of Graph promises about padding."""
    atoms = len(graph.atomic_numbers)
    assert len(graph.molecule_mask) == slots
    assert not graph.atomic_numbers[~graph.atom_mask].any()
    assert (graph.molecule_index[~graph.atom_mask] == slots - 1).all()
    assert (np.diff(graph.molecule_index) >= 0).all()
    assert (np.diff(graph.receivers) >= 0).all()
    for mask, ends in (
        (graph.pair_mask, (graph.senders, graph.receivers)),
        (graph.long_pair_mask, (graph.long_senders, graph.long_receivers)),
    ):
        for end in ends:
            assert (end[~mask] == atoms - 1).all()
            assert graph.atom_mask[end[mask]].all()
        assert mask.all() or not graph.atom_mask[-1]
    assert not graph.total_charge[~graph.molecule_mask].any()
    assert (graph.spin_multiplicity[~graph.molecule_mask] == 1).all()
    assert np.isfinite(graph.positions).all()


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=20),
    labels=st.sets(st.sampled_from(LABELS)),
    batch_size=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_ragged_molecules_come_back(make_dataset, sizes, labels, batch_size, seed):
    dataset = PackedDataset.open(make_dataset(sizes, labels=sorted(labels), seed=seed))
    loader = PackedMemmapLoader(dataset, batch_size, seed=seed)
    for index, graph in enumerate(loader.graphs()):
        rows = loader.molecules(0, index)
        atoms = dataset.atom_rows(rows)
        check_padding(graph, batch_size)
        assert graph.atom_mask.sum() == len(atoms)
        for name in ("atomic_numbers", "positions"):
            real = getattr(graph, name)[graph.atom_mask]
            np.testing.assert_array_equal(real, dataset.take(name, atoms))
        charge, spin = dataset.states_of(rows)
        real = graph.molecule_mask
        np.testing.assert_array_equal(graph.total_charge[real], charge)
        np.testing.assert_array_equal(graph.spin_multiplicity[real], spin)
        stored_labels = set(dataset.fields) & set(LABELS)
        assert set(graph.labels.values) == stored_labels
        for name in stored_labels:
            mask = graph.atom_mask if name in PER_ATOM else real
            stored = dataset.take(name, atoms if name in PER_ATOM else rows)
            np.testing.assert_array_equal(graph.labels.values[name][mask], stored)
            assert np.isnan(graph.labels.values[name][~mask]).all()
        if "energy" in stored_labels:
            assert graph.labels.values["energy"].dtype == np.float64
        np.testing.assert_array_equal(graph.labels.weight, real.astype(float))


def test_pairs_are_complete(make_dataset):
    loader = PackedMemmapLoader(make_dataset([1, 2, 5, 3, 4]), 5)
    graph = next(loader.graphs())
    molecule, real = graph.molecule_index, np.flatnonzero(graph.atom_mask)
    inside = {(i, j) for i in real for j in real if molecule[i] == molecule[j]}
    ordered = set(
        zip(
            graph.receivers[graph.pair_mask].tolist(),
            graph.senders[graph.pair_mask].tolist(),
            strict=True,
        )
    )
    assert ordered == {(i, j) for i, j in inside if i != j}
    once = zip(
        graph.long_receivers[graph.long_pair_mask].tolist(),
        graph.long_senders[graph.long_pair_mask].tolist(),
        strict=True,
    )
    assert set(once) == {(i, j) for i, j in inside if i < j}
    assert graph.pair_mask.sum() == 2 * graph.long_pair_mask.sum() == 40
    assert not graph.shifts.any()


def test_cutoff_removes_the_far_pairs_only(make_dataset):
    folder = make_dataset([8] * 12)
    every = next(PackedMemmapLoader(folder, 12, shuffle=False).graphs())
    near = next(PackedMemmapLoader(folder, 12, shuffle=False).graphs(2.5))
    vectors = every.positions[every.senders] - every.positions[every.receivers]
    expected = (np.linalg.norm(vectors, axis=1) < 2.5) & every.pair_mask
    assert 0 < near.pair_mask.sum() == expected.sum() < every.pair_mask.sum()
    np.testing.assert_array_equal(near.senders[near.pair_mask], every.senders[expected])
    assert near.long_pair_mask.sum() == every.long_pair_mask.sum()
    check_padding(near, 12)


@pytest.mark.parametrize("cutoff", [None, 2.5])
def test_few_shapes_cover_every_epoch(make_dataset, cutoff):
    sizes = np.random.default_rng(0).integers(1, 9, 150)
    loader = PackedMemmapLoader(make_dataset(sizes), 8, bucket_size=40)
    found = {
        Capacity(
            len(g.total_charge),
            len(g.atomic_numbers),
            len(g.senders),
            len(g.long_senders),
        )
        for _ in range(4)
        for g in loader.graphs(cutoff)
    }
    assert found <= set(loader.shapes)
    assert len(loader.shapes) <= MAX_SHAPES


def test_few_batches_are_not_worth_many_shapes(make_dataset):
    sizes = np.random.default_rng(5).integers(2, 40, size=400).tolist()
    dataset = PackedDataset.open(make_dataset(sizes))

    def shapes(expected, shuffle=True):
        loader = PackedMemmapLoader(
            dataset, 4, shuffle, bucket_size=1, expected_batches=expected
        )
        next(loader.graphs())
        return loader.shapes

    many = shapes(None)
    assert len(many) > 3
    assert shapes(10**6) == many
    few = shapes(100)
    assert len(few) == 2  # one for what occurs, one for what might
    assert few[-1] == many[-1]
    assert len(shapes(1000)) in range(len(few), len(many))
    # in the order of the files once, unless more is said
    assert len(shapes(None, shuffle=False)) == 2
    assert len(shapes(10**6, shuffle=False)) > 2


def test_shapes_hold_batches_from_elsewhere_that_were_announced(make_dataset, caplog):
    small, large = [3] * 40, [30] * 40
    dataset = PackedDataset.open(make_dataset(small + large))
    loader = PackedMemmapLoader(dataset, 4, bucket_size=1).subset(np.arange(40))
    elsewhere = [
        dataset.molecules(np.arange(first, first + 4)) for first in range(40, 80, 4)
    ]
    [grown] = loader.shares_of(elsewhere[0], 4.0, 1)
    assert "no shape of" in caplog.text
    caplog.clear()
    asked = []
    loader.expect(lambda names: asked.append(names) or (elsewhere, 1.0))
    graphs = [g for some in elsewhere for g in loader.shares_of(some, 4.0, 1)]
    graphs += loader.graphs(4.0)
    assert not caplog.text
    assert asked == [loader.names(4.0, 1)]
    atoms = {len(graph.atom_mask) for graph in graphs}
    assert atoms <= {shape.atoms for shape in loader.shapes}
    assert min(atoms) == 13  # those of its own are not padded to the others'
    assert len(grown.atom_mask) > max(atoms) - 30


def test_equal_molecules_need_one_shape_without_padding(make_dataset):
    loader = PackedMemmapLoader(make_dataset([5] * 17), 8)
    assert [shape[1:4] for shape in loader.shapes] == [(40, 160, 80)]
    first = next(loader.graphs())
    assert first.atom_mask.all()
    assert first.pair_mask.all()
    for graph in loader.graphs():
        check_padding(graph, 8)


def test_processes_agree_on_the_shape_of_each_step(make_dataset):
    sizes = np.random.default_rng(2).integers(1, 9, 61)
    folder = make_dataset(sizes)
    steps = []
    for index in range(3):
        loader = PackedMemmapLoader(folder, 6, process_index=index, process_count=3)
        graphs = list(loader.graphs(2.5))
        for graph in graphs:
            check_padding(graph, 6)
        steps.append([(len(g.atomic_numbers), len(g.senders)) for g in graphs])
    assert steps[0] == steps[1] == steps[2]


def test_padded_pairs_need_a_padded_atom():
    assert Capacity(1, 4, 12, 6).holds(Capacity(1, 4, 12, 6))
    assert not Capacity(1, 4, 12, 6).holds(Capacity(1, 4, 10, 6))
    assert Capacity(1, 5, 12, 6).holds(Capacity(1, 4, 10, 6))
    assert not Capacity(1, 5, 12, 6).holds(Capacity(1, 4, 13, 6))


def test_pairs_of_atoms_and_pairs_of_nothing():
    senders, receivers = pairs_from(np.array([1, 3, 1]), np.array([0, 1, 4]))
    assert receivers.tolist() == [1, 1, 2, 2, 3, 3]
    assert senders.tolist() == [2, 3, 1, 3, 1, 2]
    assert len(pairs_from(np.array([1, 1]), np.array([0, 1]))[0]) == 0


@pytest.fixture(scope="module")
def periodic_folder(tmp_path_factory):
    """Two copper crystals of different size and one open molecule."""
    crystals = [ase.build.bulk("Cu", cubic=True).repeat(k) for k in (1, (2, 1, 1))]
    water = ase.build.molecule("H2O")
    target = tmp_path_factory.mktemp("periodic") / "set"
    with PackedWriter(target) as writer:
        for atoms in (*crystals, water):
            writer.append(
                molecules_of(
                    np.array([len(atoms)]),
                    {
                        "atomic_numbers": atoms.numbers,
                        "positions": atoms.positions,
                        "total_charge": np.zeros(1),
                        "spin_multiplicity": np.ones(1),
                        "energy": np.zeros(1),
                        "cell": atoms.cell.array[None],
                        "pbc": atoms.pbc[None],
                    },
                )
            )
    return target


def test_periodic_neighbours_have_images_and_no_long_pairs(periodic_folder):
    loader = PackedMemmapLoader(periodic_folder, 3, shuffle=False)
    graph = next(loader.graphs(3.0))
    check_padding(graph, 3)
    assert graph.periodic.tolist() == [True, True, False]
    vectors = graph.positions[graph.senders] + graph.shifts
    vectors = vectors - graph.positions[graph.receivers]
    lengths = np.linalg.norm(vectors, axis=1)[graph.pair_mask]
    molecule = graph.molecule_index[graph.receivers[graph.pair_mask]]
    # Each atom of fcc copper has twelve neighbours at a / sqrt(2).
    assert np.bincount(molecule).tolist() == [4 * 12, 8 * 12, 6]
    np.testing.assert_allclose(lengths[molecule < 2], 3.61 / 2**0.5, atol=1e-4)
    assert graph.long_pair_mask.sum() == 3


def test_periodic_structures_need_a_cutoff(periodic_folder):
    with pytest.raises(ValueError, match="graphs need a cutoff"):
        PackedMemmapLoader(periodic_folder, 2).graphs()


def test_unknown_spin_cannot_become_a_graph(make_molecules, make_dataset):
    molecules = make_molecules([2, 3])
    del molecules["values"]["spin_multiplicity"]
    folder = make_dataset(molecules=molecules)
    with pytest.raises(ValueError, match="--assume-multiplicity lowest"):
        next(PackedMemmapLoader(folder, 2).graphs())
    batch = next(PackedMemmapLoader(folder, 2).batches())
    assert np.isnan(batch["total_spin"]).all()
    dataset = PackedDataset.open(folder, assume_multiplicity="lowest")
    graph = next(PackedMemmapLoader(dataset, 2).graphs())
    protons = [graph.atomic_numbers[graph.molecule_index == m].sum() for m in (0, 1)]
    np.testing.assert_array_equal(
        graph.spin_multiplicity, 1 + (protons - graph.total_charge) % 2
    )
