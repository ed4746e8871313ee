"""The loss on differences between states: pairs by hand, whole ladders in batches."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from physnet_training import PackedMemmapLoader
from physnet_training.convert import convert
from physnet_training.loading.geometries import Ladders
from physnet_training.loading.order import Sampling, epoch_order
from physnet_training.packed import PackedDataset
from physnet_training.train.evaluate import evaluate_potential
from physnet_training.train.gaps import (
    GapSums,
    compare_gaps,
    find_ladders,
    gap_errors,
)
from physnet_training.train.loss import vertical_error
from physnet_training.train.recipe import LossConfig, recipe_from
from physnet_training.train.trainer import prepare, reopen

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph
from physnet_ase.untrained import untrained_potential

LADDERS = Path(__file__).parents[2] / "training/data/states_dft/ladders.npz"
TINY = {"num_features": 8, "num_radial": 4, "num_blocks": 1, "cutoff": 4.0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    target = tmp_path_factory.mktemp("data") / "ladders"
    convert(LADDERS, target)
    return PackedDataset.open(target)


def loader_of(dataset: PackedDataset, batch_size: int, **options: Any) -> Any:
    return PackedMemmapLoader(
        dataset, batch_size, bucket_size=1, keep_ladders=True, **options
    )


def first_graph(dataset: PackedDataset, rows: list[int], slots: int) -> Graph:
    loader = loader_of(dataset, slots).subset(rows)
    graph = next(loader.graphs(4.0))
    return jax.tree.map(jnp.asarray, graph)


@settings(deadline=None, max_examples=40)
@given(
    numbers=st.lists(st.integers(0, 12), min_size=1, max_size=80),
    group=st.integers(1, 20),
    bucket=st.integers(1, 60),
    epoch=st.integers(0, 3),
)
def test_an_order_with_ladders_is_a_permutation(numbers, group, bucket, epoch):
    ladders = np.unique(numbers, return_inverse=True)[1]
    sizes = (5 + ladders % 3).astype(np.uint16)  # of a geometry all the same
    sampling = Sampling(bucket_size=bucket, keep_ladders=True)
    order = epoch_order(sizes, sampling, epoch, group=group, ladders=ladders)
    assert sorted(order.tolist()) == list(range(len(numbers)))
    if bucket < 2 * group:  # nothing is sorted by size
        along = ladders[order]
        borders = np.count_nonzero(np.diff(along))
        assert borders == len(set(numbers)) - 1


def test_most_ladders_are_whole_in_their_batch_and_others_are_drawn_next(
    dataset: PackedDataset,
) -> None:
    loader = loader_of(dataset, 32)
    numbers = Ladders.of(dataset, np.arange(len(dataset)))
    of_row = np.empty(len(dataset), int)
    of_row[numbers.molecules] = numbers.numbers
    torn = []
    for epoch in (0, 1):
        rows = [loader.molecules(epoch, index) for index in range(loader.num_batches)]
        assert sorted(np.concatenate(rows).tolist()) == list(range(len(dataset)))
        places = [set(of_row[each].tolist()) for each in rows]
        torn.append({n for a, b in pairwise(places) for n in a & b})
    assert loader.num_ladders == 84
    assert all(len(each) < loader.num_batches for each in torn)
    assert torn[0] != torn[1]


def test_ladders_are_not_drawn_before_single_molecules() -> None:
    ladders = np.repeat(np.arange(1100), [6] * 100 + [1] * 1000)
    sampling, sizes = Sampling(bucket_size=1, keep_ladders=True), np.full(1600, 9)
    orders = [
        epoch_order(sizes, sampling, epoch, group=32, ladders=ladders)
        for epoch in range(5)
    ]
    # of the middle of 500 ladders' places, half an epoch is expected, +- 0.013
    places = [np.flatnonzero(order < 600).mean() / 1600 for order in orders]
    assert np.mean(places) == pytest.approx(0.5, abs=0.05)


def test_a_balanced_order_has_the_draws_of_the_other(dataset: PackedDataset) -> None:
    plain = PackedMemmapLoader(dataset, 32, bucket_size=1, balance=0.7)
    kept = loader_of(dataset, 32, balance=0.7)
    drawn = [
        np.sort(np.concatenate([each.molecules(3, i) for i in range(each.num_batches)]))
        for each in (plain, kept)
    ]
    np.testing.assert_array_equal(*drawn)


def test_a_position_is_that_of_an_order_with_ladders(dataset: PackedDataset) -> None:
    loader, plain = loader_of(dataset, 32), PackedMemmapLoader(dataset, 32, True, 1)
    next(loader.graphs(4.0))
    other = loader_of(dataset, 32)
    other.restore(json.loads(json.dumps(loader.state())))
    for one, two in zip(loader.graphs(4.0), other.graphs(4.0), strict=True):
        np.testing.assert_array_equal(one.positions, two.positions)
    for wrong, state in ((plain, loader.state()), (loader, plain.state())):
        with pytest.raises(ValueError, match="keep_ladders"):
            wrong.restore(state)
    with pytest.raises(ValueError, match="keep_ladders = True .* turn shuffle on"):
        loader_of(dataset, 32, shuffle=False)


@pytest.mark.parametrize(("processes", "count"), [(1, 2), (2, 1), (2, 2)])
def test_shares_hold_ladders(
    dataset: PackedDataset, processes: int, count: int
) -> None:
    parts = [
        loader_of(dataset, 32 // processes, process_index=p, process_count=processes)
        for p in range(processes)
    ]
    whole = found = 0
    for shares in zip(*(part.shares(4.0, count) for part in parts), strict=True):
        graphs = [graph for share in shares for graph in share]
        assert len({g.positions.shape for g in graphs}) == 1
        assert max(g.molecule_mask.sum() for g in graphs) <= 32 // processes // count
        found += sum(pairs_in(g.labels.ladder[g.molecule_mask]) for g in graphs)
    for graph in loader_of(dataset, 32).graphs(4.0):
        whole += pairs_in(graph.labels.ladder[graph.molecule_mask])
    assert 0.6 * whole < found < whole  # those across a border do not count


def pairs_in(ladder: np.ndarray) -> int:
    counts = np.bincount(ladder)
    return int((counts * (counts - 1) // 2).sum())


def test_pairs_of_states_count_and_nothing_else(dataset: PackedDataset) -> None:
    ladder, lone = find_ladders(dataset, np.arange(len(dataset)))[:2]
    graph = first_graph(dataset, [*ladder.rows[:3], lone.rows[0]], 7)
    labels = graph.labels
    own = np.flatnonzero(np.bincount(labels.ladder[labels.ladder >= 0]) == 3)[0]
    members = np.flatnonzero(labels.ladder == own)
    error = np.zeros(7, np.float32)
    error[members] = [0.1, 0.4, -0.2]
    weight = np.ones(7, np.float32)
    weight[members[2]] = 0.5
    error[np.asarray(labels.ladder) != own] = 77.0  # padding, and a lone molecule
    zeros = labels.values | {"energy": jnp.zeros(7)}
    graph = graph._replace(
        labels=labels._replace(values=zeros, weight=jnp.asarray(weight))
    )
    found = vertical_error(LossConfig(), jnp.asarray(error), graph)
    # |0.1 - 0.4|, and with half the weight |0.1 + 0.2| and |0.4 + 0.2|
    assert float(found) == pytest.approx((0.3 + 0.5 * 0.3 + 0.5 * 0.6) / 2.0)
    slopes = jax.grad(lambda e: vertical_error(LossConfig(), e, graph))(error)
    others = np.setdiff1d(np.arange(7), members)
    np.testing.assert_array_equal(slopes[others], 0.0)
    assert float(slopes.sum()) == pytest.approx(0.0, abs=1e-6)
    # the same molecule twice is no pair of states
    again = graph._replace(
        total_charge=jnp.zeros(7, int), spin_multiplicity=jnp.ones(7, int)
    )
    assert float(vertical_error(LossConfig(), jnp.asarray(error), again)) == 0.0
    # and a missing label takes its pairs along, in the gradient too
    missing = labels.values | {"energy": jnp.zeros(7).at[members[1]].set(jnp.nan)}
    graph = graph._replace(labels=graph.labels._replace(values=missing))
    value, slopes = jax.value_and_grad(
        lambda e: vertical_error(LossConfig(), e, graph)
    )(error)
    assert float(value) == pytest.approx(0.3)
    assert np.isfinite(slopes).all()


def recipe_with(vertical: float, **content: Any) -> Any:
    options = {"steps": 40, "batch_size": 16, "validate_every": 20, "warmup_steps": 5}
    return recipe_from(
        {
            "model": TINY,
            "split": {"kind": "geometry", "train_fraction": 0.8},
            "loss": {"dipole": 0.0, "charges": 0.0, "vertical": vertical},
            "optimizer": options,
            **content,
        },
        "test",
    )


def test_a_training_reports_the_term_and_resumes_exactly(
    dataset: PackedDataset, tmp_path: Path
) -> None:
    recipe = recipe_with(5.0, sampling={"separated_pairs": 0.2})
    straight = prepare(recipe, dataset, tmp_path / "straight")
    straight.run()
    assert straight.functions.step._cache_size() <= len(straight.loader.shapes)
    scores = []
    for text in (straight.out / "history.jsonl").read_text().splitlines():
        line = json.loads(text)
        assert line["train"]["vertical"] > 0
        errors = line["errors"][0]
        scores.append(
            10 * errors["energy_mae_ev"]
            + 10 * errors["forces_mae_ev_per_angstrom"]
            + 5 * errors["vertical_mae_ev"]
        )
    assert straight.best == pytest.approx(min(scores))

    class Interruption(Exception):
        pass

    def interrupt(progress: Any) -> None:
        if progress.step == 40:
            raise Interruption

    broken = prepare(recipe, dataset, tmp_path / "broken")
    with pytest.raises(Interruption):
        broken.run(interrupt)
    again = reopen(tmp_path / "broken")
    again.run()
    np.testing.assert_array_equal(again.state.weights, straight.state.weights)


def test_what_cannot_be_asked_for_is_refused(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    lone = PackedDataset.open(make_dataset([3] * 20, labels=("energy", "forces")))
    with pytest.raises(ValueError, match=r"loss\.vertical = 5\.0 needs .*ladders"):
        prepare(recipe_with(5.0), lone, tmp_path)
    with pytest.raises(ValueError, match="about energies, whose weight is 0"):
        LossConfig(vertical=1.0, energy=0.0)


def test_evaluation_has_the_gaps_of_the_potential(dataset: PackedDataset) -> None:
    states = [(q, m) for q in (-1, 0, 1) for m in (1, 2, 3, 4)]
    potential = untrained_potential(
        ModelConfig(**TINY), elements=(1, 6, 7, 8, 9), states=states
    )
    rows = np.random.default_rng(0).permutation(len(dataset))[:200]
    loader = PackedMemmapLoader(dataset, 16, shuffle=False).subset(rows)
    predictions = evaluate_potential(potential, loader)
    found = predictions.gaps()
    expected = gap_errors(compare_gaps(potential, find_ladders(dataset, np.sort(rows))))
    for kind, numbers in expected.items():
        assert found[kind] == pytest.approx(numbers, rel=1e-4), kind
    both = predictions.errors()[0]
    assert both["vertical_mae_ev"] == found["any_two_states"]["mae_ev"]


def test_gaps_do_not_depend_on_the_batches(
    dataset: PackedDataset, rng: np.random.Generator
) -> None:
    ladders = Ladders.of(dataset, np.arange(len(dataset)))
    state = np.stack(dataset.states_of(ladders.molecules), axis=1)
    labels = dataset.take("energy", ladders.molecules)
    predicted = labels + rng.normal(size=len(labels))
    found = []
    for size in (7, len(dataset)):
        sums = GapSums(dataset, ladders)
        for start in range(0, len(dataset), size):
            some = slice(start, start + size)
            sums.add(
                {
                    "state": state[some],
                    "energy": predicted[some],
                    "energy_label": labels[some],
                }
            )
        found.append(sums.errors())
    assert found[0].keys() == found[1].keys()
    for kind in found[0]:
        assert found[0][kind] == pytest.approx(found[1][kind], rel=1e-12)
