"""Pairs of far molecules: their labels are sums, and nothing else is drawn."""

from pathlib import Path

import numpy as np
import pytest
from physnet_training.convert import convert
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.loading.pairs import SeparatedPairs, is_reserved
from physnet_training.packed import PackedDataset
from physnet_training.train.recipe import recipe_from
from physnet_training.train.trainer import prepare, reopen

DATA = Path(__file__).parents[2] / "training" / "data" / "states_dft" / "ladders.npz"
TINY = {
    "num_features": 8,
    "num_radial": 4,
    "num_blocks": 2,
    "num_residual_atomic": 0,
    "num_residual_interaction": 0,
    "num_residual_output": 0,
    "cutoff": 4.0,
    "conditioning": "local",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    target = tmp_path_factory.mktemp("pairs") / "ladders"
    convert(DATA, target)
    return PackedDataset.open(target)


@pytest.fixture(scope="module")
def pairs(dataset: PackedDataset) -> SeparatedPairs:
    return SeparatedPairs(dataset, np.arange(len(dataset)), 3, list(dataset.states))


def test_labels_of_a_pair_are_those_of_its_molecules(
    dataset: PackedDataset, pairs: SeparatedPairs
) -> None:
    energies = dataset.take("energy", np.arange(len(dataset)))
    batch = pairs.batch(5, 40)
    assert len(batch) == 40
    assert (batch.n_atoms >= 2).all()
    values, first = batch.values, batch.first_atom
    charge, spin = values["total_charge"], values["spin_multiplicity"]
    assert {(int(q), int(m)) for q, m in zip(charge, spin, strict=True)} <= set(
        dataset.states
    )
    assert ((charge != 0) | (spin != 1)).sum() > 20  # mostly ions and open shells
    for index, row in enumerate(batch.rows):
        # the first molecule is that row; what is left over must be one of the others
        size = int(dataset.n_atoms[row])
        atoms = slice(first[index], first[index] + size)
        own = dataset.atom_rows(np.array([row]))
        forces = dataset.take("forces", own)
        np.testing.assert_array_equal(values["forces"][atoms], forces)
        rest = values["energy"][index] - energies[row]
        assert np.abs(energies - rest).min() < 1e-6
        whole = slice(first[index], first[index] + batch.n_atoms[index])
        positions = values["positions"][whole]
        gap = np.linalg.norm(positions[size:].mean(axis=0) - positions[:size].mean(0))
        assert 25.0 < gap < 65.0
        # an ion's dipole moves with it
        charges = values["charges"][whole]
        np.testing.assert_allclose(charges.sum(), charge[index], atol=1e-3)


def test_the_lowest_way_to_share_the_state_is_taken(
    dataset: PackedDataset, pairs: SeparatedPairs
) -> None:
    states = np.stack(dataset.states_of(np.arange(len(dataset))), axis=1)
    rng = np.random.default_rng(0)
    for _ in range(30):
        one, two = pairs._pair(rng)
        total = states[one] + states[two] - [0, 1]
        ladders = [
            next(x for x in pairs._ladders if row in {r for _, r in x.values()})
            for row in (one, two)
        ]
        ways = [
            a[0] + b[0]
            for s, a in ladders[0].items()
            for t, b in ladders[1].items()
            if s[0] + t[0] == total[0] and s[1] + t[1] - 1 == total[1]
        ]
        chosen = dataset.take("energy", np.array([one, two])).sum()
        assert chosen == pytest.approx(min(ways))


def test_batches_depend_on_their_number_alone(
    dataset: PackedDataset, pairs: SeparatedPairs
) -> None:
    again = SeparatedPairs(dataset, np.arange(len(dataset)), 3, list(dataset.states))
    for number in (7, 2, 7):
        one, two = pairs.batch(number, 4), again.batch(number, 4)
        np.testing.assert_array_equal(one.values["positions"], two.values["positions"])
    assert not np.array_equal(pairs.batch(1, 4).rows, pairs.batch(2, 4).rows)


def test_reserved_pairs_are_never_drawn(
    dataset: PackedDataset, pairs: SeparatedPairs
) -> None:
    rng = np.random.default_rng(1)
    groups = dataset.take("group", np.arange(len(dataset)))
    names = [dataset.groups[g] for g in groups]
    drawn = {frozenset(names[r] for r in pairs._pair(rng)) for _ in range(500)}
    assert len(drawn) > 150
    assert not any(len(p) == 2 and is_reserved(*p) for p in drawn)
    every = sorted(set(names))
    share = np.mean([is_reserved(a, b) for a in every for b in every if a < b])
    assert 0.05 < share < 0.2
    assert is_reserved("CH4", "H2O") == is_reserved("H2O", "CH4")
    assert not is_reserved("H2O", "H2O")


def test_data_without_ladders_are_refused(dataset: PackedDataset) -> None:
    charge, spin = dataset.states_of(np.arange(len(dataset)))
    neutral = np.flatnonzero((charge == 0) & (spin == 1))
    with pytest.raises(
        ValueError, match="whose geometry is labelled in several states"
    ):
        SeparatedPairs(dataset, neutral, 0, list(dataset.states))


def test_a_run_with_pairs_resumes_to_the_last_bit(
    dataset: PackedDataset, tmp_path: Path
) -> None:
    recipe = recipe_from(
        {
            "model": TINY,
            "split": {"kind": "geometry"},
            "sampling": {"separated_pairs": 0.5},
            "optimizer": {"steps": 40, "batch_size": 8, "validate_every": 20},
        },
        "test",
    )
    straight = prepare(recipe, dataset, tmp_path / "straight")
    straight.run()

    class Interruption(Exception):
        pass

    def interrupt(progress):
        if progress.step == 20:
            raise Interruption

    broken = prepare(recipe, dataset, tmp_path / "broken")
    with pytest.raises(Interruption):
        broken.run(interrupt)
    again = reopen(tmp_path / "broken")
    assert int(again.state.step) == 20
    again.run()
    np.testing.assert_array_equal(again.state.weights, straight.state.weights)
    # a share of the batches does not come from the loader
    seen = straight.loader.state()
    assert seen["epoch"] * straight.loader.num_batches + seen["index"] < 35
    references = straight.references[0].state_energies
    by_state = {(s.charge, s.multiplicity): c for s, c in references.items()}
    doublet = by_state[1, 2]
    assert by_state[1, 4] - doublet == pytest.approx(by_state[0, 3] - by_state[0, 1])
    graph = next(PackedMemmapLoader(dataset, 8).graphs(4.0))
    assert graph.mesh.shape == (0, 0, 0)
