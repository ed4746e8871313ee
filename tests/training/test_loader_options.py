"""Blocks, balance and weights of the loader: exact resume, disjoint shares, errors."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from physnet_training import PackedMemmapLoader
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset

SIZES = tuple(np.random.default_rng(3).integers(1, 9, 61).tolist())
OPTIONS = (
    {"block_size": 7, "mixed_blocks": 2},
    {"balance": 1.0},
    {"balance": 0.5, "block_size": 10},
)


@pytest.fixture(scope="module")
def folder(make_dataset):
    return make_dataset(SIZES, seed=8)


def rows_of(batches):
    return [i for batch in batches for i in batch["index"].tolist() if i >= 0]


@settings(deadline=None, max_examples=40)
@given(
    options=st.sampled_from(OPTIONS),
    batch_size=st.integers(1, 12),
    stop=st.integers(0, 80),
    processes=st.integers(1, 3),
)
def test_resume_is_exact_in_every_process(folder, options, batch_size, stop, processes):
    for index in range(processes):
        settings = (folder, batch_size, True, 16, 4, index, processes)
        straight = PackedMemmapLoader(*settings, **options)
        expected = [b for _ in range(2) for b in straight.batches()]
        loader = PackedMemmapLoader(*settings, **options)
        taken = 0
        while taken < min(stop, 2 * loader.num_batches):
            for _ in loader.batches():
                taken += 1
                if taken == stop:
                    break
        resumed = PackedMemmapLoader(*settings, **options)
        resumed.restore(json.loads(json.dumps(loader.state())))
        rest = []
        while len(rest) < len(expected) - taken:
            rest += resumed.batches()
        for got, want in zip(rest, expected[taken:], strict=True):
            for key in want:
                np.testing.assert_array_equal(got[key], want[key])


@settings(deadline=None, max_examples=20)
@given(options=st.sampled_from(OPTIONS), processes=st.integers(1, 4))
def test_processes_together_make_the_epoch_of_one(folder, options, processes):
    found = []
    for index in range(processes):
        loader = PackedMemmapLoader(
            folder, 3, process_index=index, process_count=processes, **options
        )
        found += rows_of(loader.batches())
    one = PackedMemmapLoader(folder, 3 * processes, **options)
    assert sorted(found) == sorted(rows_of(one.batches()))
    if "balance" not in options:
        assert sorted(found) == list(range(len(SIZES)))


def test_even_balance_draws_each_state_equally_often(folder):
    loader = PackedMemmapLoader(folder, 8, balance=1.0)
    states = loader.dataset.states
    assert max(states.values()) > 2 * min(states.values())
    for _ in range(2):
        rows = np.array(rows_of(loader.batches()))
        assert len(rows) == len(SIZES)
        drawn = loader.dataset.count_states(rows)
        assert drawn.keys() == states.keys()
        assert max(drawn.values()) - min(drawn.values()) <= 1


def test_balance_needs_known_states(make_molecules, make_dataset):
    molecules = make_molecules([2, 3, 2])
    del molecules["values"]["spin_multiplicity"]
    loader = PackedMemmapLoader(make_dataset(molecules=molecules), 2, balance=0.5)
    with pytest.raises(ValueError, match=r"no spin multiplicity for molecule 0"):
        next(loader.batches())


def test_state_with_other_options_is_refused(folder):
    state = PackedMemmapLoader(folder, 4, balance=0.5).state()
    with pytest.raises(ValueError, match=r"balance = 0\.5, this loader has 0\.0"):
        PackedMemmapLoader(folder, 4).restore(state)


def test_validation_part_is_not_resampled(folder):
    loader = PackedMemmapLoader(folder, 4, balance=1.0, block_size=5)
    part = loader.subset([5, 3, 8], shuffle=False)
    assert rows_of(part.batches()) == [5, 3, 8]
    assert loader.sampling.balance == 1.0


@pytest.mark.parametrize("kind", [np.asarray, "file"])
def test_weights_reach_graphs_and_batches(folder, tmp_path, kind):
    weights = np.random.default_rng(0).uniform(0, 2, len(SIZES)).astype(np.float32)
    source = weights
    if kind == "file":
        source = tmp_path / "weights.npy"
        np.save(source, weights)
    loader = PackedMemmapLoader(folder, 8, weights=source).subset(range(40))
    for index, graph in enumerate(loader.graphs()):
        real = graph.molecule_mask
        expected = weights[loader.molecules(0, index)]
        np.testing.assert_array_equal(graph.labels.weight[real], expected)
        assert not graph.labels.weight[~real].any()
    for batch in loader.batches():
        real = batch["index"] >= 0
        np.testing.assert_array_equal(
            batch["weight"][real], weights[batch["index"]][real]
        )
        assert not batch["weight"][~real].any()
    assert "weight" not in next(PackedMemmapLoader(folder, 8).batches())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(60), r"each of the dataset's 61 molecules, it holds .*\(60,\)"),
        (np.ones((61, 1)), r"shape \(61, 1\)"),
        (np.full(61, "a"), "must hold one number"),
        (np.append(np.ones(60), np.nan), "molecule 60 has the weight nan"),
        (np.append(-1.0, np.ones(60)), r"molecule 0 has the weight -1\.0"),
        (np.zeros(61), "all weights are 0"),
    ],
)
def test_bad_weights_are_refused(folder, weights, message):
    with pytest.raises(ValueError, match=message):
        PackedMemmapLoader(folder, 4, weights=weights)


def test_unreadable_weights_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"absent\.npy cannot be read as an array"):
        PackedMemmapLoader(folder, 4, weights=tmp_path / "absent.npy")
    (tmp_path / "w.npy").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"w\.npy cannot be read as an array"):
        PackedMemmapLoader(folder, 4, weights=tmp_path / "w.npy")


def test_report_of_padding_counts_what_was_yielded(folder):
    loader = PackedMemmapLoader(folder, 4)
    assert loader.padding() == (0.0, 0.0, 0, 0)
    graphs = [next(loader.graphs()) for _ in range(5)]
    found = loader.padding()
    atoms = sum(int(g.atom_mask.sum()) for g in graphs)
    slots = sum(len(g.atom_mask) for g in graphs)
    assert found.batches == 5
    assert found.atoms == pytest.approx(1 - atoms / slots)
    pairs = sum(int(g.pair_mask.sum()) for g in graphs)
    assert found.pairs == pytest.approx(1 - pairs / sum(len(g.senders) for g in graphs))
    assert found.shapes == len({(len(g.atom_mask), len(g.pair_mask)) for g in graphs})


@pytest.mark.parametrize("walk", ["batches", "graphs"])
def test_little_padding_in_at_most_eight_shapes(make_dataset, walk):
    sizes = np.random.default_rng(0).integers(8, 41, 20_000)
    loader = PackedMemmapLoader(make_dataset(sizes, labels=["energy"]), 32)
    for _ in getattr(loader, walk)():
        pass
    found = loader.padding()
    assert found.atoms < 0.1
    assert found.shapes <= 8


def test_kept_batches_do_not_change(folder):
    loader = PackedMemmapLoader(folder, 4)
    kept = list(loader.batches())
    copies = [{key: value.copy() for key, value in batch.items()} for batch in kept]
    for _ in loader.batches():
        pass
    for batch in kept:
        batch["R"][:] = 0  # a batch belongs to its consumer
    again = PackedMemmapLoader(PackedDataset.open(folder), 4)
    for batch, copy in zip(again.batches(), copies, strict=True):
        for key in copy:
            np.testing.assert_array_equal(batch[key], copy[key])


def test_weights_of_the_file_reach_the_loss(tmp_path):
    frame = "2\n{} energy=-30.0 charge=0 spin=1\nH 0 0 0\nH 0 0 {}\n"
    said = ["weight=2.5", "weight=0", "", "config_weight=0.5"]
    text = "".join(frame.format(s, 0.7 + 0.01 * i) for i, s in enumerate(said))
    (tmp_path / "a.xyz").write_text(text)
    convert(tmp_path / "a.xyz", tmp_path / "set")
    dataset = PackedDataset.open(tmp_path / "set")
    loader = PackedMemmapLoader(
        dataset, 4, shuffle=False, weights=np.array([2.0, 1, 1, 1])
    )
    np.testing.assert_allclose(next(loader.graphs()).labels.weight, [5, 0, 1, 0.5])


def test_a_negative_weight_is_named(make_molecules, make_dataset):
    molecules = make_molecules([3] * 4)
    molecules["values"]["weight"] = np.array([1.0, np.nan, -2.0, 1.0])
    loader = PackedMemmapLoader(make_dataset(molecules=molecules), 4, shuffle=False)
    with pytest.raises(ValueError, match="molecule 2 has weight -2"):
        next(loader.graphs())
