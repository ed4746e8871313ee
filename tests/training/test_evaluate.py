"""Evaluation and gaps agree with what the potential says molecule by molecule."""

from pathlib import Path

import numpy as np
import pytest
from ase.data import chemical_symbols
from physnet_training.convert import convert
from physnet_training.loading.loader import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.train.display import tables_by
from physnet_training.train.evaluate import (
    ErrorSums,
    Predictions,
    by_element,
    by_size,
    by_state,
    evaluate_potential,
)
from physnet_training.train.gaps import compare_gaps, find_ladders, gap_errors

from physnet_ase.checkpoint import StateRecord
from physnet_ase.config import ModelConfig
from physnet_ase.potential import Potential
from physnet_ase.state import ElectronicState
from physnet_ase.untrained import untrained_potential

DATA = Path(__file__).parents[2] / "training" / "data" / "states_dft"
STATES = [(q, m) for q in (-1, 0, 1) for m in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    target = tmp_path_factory.mktemp("data") / "ladders"
    convert(DATA / "ladders.npz", target)
    return PackedDataset.open(target)


@pytest.fixture(scope="module")
def potential() -> Potential:
    config = ModelConfig(num_features=8, num_radial=8, num_blocks=1, cutoff=5.0)
    return untrained_potential(config, elements=(1, 6, 7, 8, 9), states=STATES)


def test_errors_are_those_of_the_public_potential(
    dataset: PackedDataset, potential: Potential
) -> None:
    rows = np.arange(0, len(dataset), 7)
    loader = PackedMemmapLoader(dataset, 16).subset(rows, shuffle=False)
    table = evaluate_potential(potential, loader).errors()
    errors, forces = [], []
    for ladder in find_ladders(dataset, np.arange(len(dataset))):
        atoms = ladder.atoms()
        for row, state in zip(ladder.rows, ladder.energies, strict=True):
            if row in rows:
                (result,) = potential.evaluate(atoms, states=[state])
                errors.append(result.energy - ladder.energies[state])
                label = dataset.take("forces", dataset.atom_rows(np.array([row])))
                forces.append((result.forces - label).ravel())
    assert table[0]["molecules"] == len(rows) == len(errors)
    assert table[0]["energy_mae_ev"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-5)
    worst = evaluate_potential(potential, loader).worst.rows()["energy"]
    assert worst[0]["error_ev"] == pytest.approx(np.max(np.abs(errors)), rel=1e-5)
    state = [
        int(part[0]) for part in dataset.states_of(np.array([worst[0]["molecule"]]))
    ]
    assert [worst[0]["charge"], worst[0]["multiplicity"]] == state
    rmse = np.sqrt(np.mean(np.concatenate(forces) ** 2))
    assert table[0]["forces_rmse_ev_per_angstrom"] == pytest.approx(rmse, rel=1e-4)
    assert sum(row["molecules"] for row in table[1:]) == len(rows)


def test_missing_labels_give_no_number_instead_of_zero() -> None:
    nothing = np.full(2, np.nan)
    values = {
        "state": np.array([[0, 1], [1, 2]]),
        "size": np.array([1, 1]),
        "energy": np.array([1.0, 2.0]),
        "energy_label": np.array([0.5, np.nan]),
        "atom_state": np.array([[0, 1], [1, 2]]),
        "forces": np.zeros((2, 3)),
        "forces_label": np.full((2, 3), np.nan),
        "charges": np.zeros(2),
        "charges_label": nothing,
    }
    sums = ErrorSums(by_state, "charge", "multiplicity")
    sums.add(values)
    row = sums.row(None)
    assert row["energy_mae_ev"] == pytest.approx(0.5)
    assert row["forces_mae_ev_per_angstrom"] is None
    assert sums.row((1, 2))["energy_mae_ev"] is None


def test_pieces_have_the_errors_of_the_whole(rng: np.random.Generator) -> None:
    sizes = rng.integers(1, 5, 40)
    atoms = int(sizes.sum())
    states = np.array([[0, 1], [1, 2], [0, 3]])[rng.integers(0, 3, 40)]
    values = {"state": states, "size": sizes, "atom_state": np.repeat(states, sizes, 0)}
    for name, shape in (("energy", 40), ("forces", (atoms, 3)), ("charges", atoms)):
        values[name], values[f"{name}_label"] = rng.normal(size=(2, *np.ravel(shape)))
    values["forces_label"][3, 1] = np.nan
    sums = ErrorSums(by_state, "charge", "multiplicity")
    start = np.cumsum(sizes) - sizes
    for first in range(0, 40, 7):
        some = slice(first, first + 7)
        mine = slice(start[some][0], start[some][-1] + sizes[some][-1])
        sums.add(
            {
                name: array[some if len(array) == 40 else mine]
                for name, array in values.items()
            }
        )
    for state in (None, *sums.keys()):
        row = sums.row(state)
        rows = np.ones(40, bool) if state is None else (states == state).all(axis=1)
        error = (values["forces"] - values["forces_label"])[np.repeat(rows, sizes)]
        expected = np.sqrt(np.nanmean(error**2))
        assert row["forces_rmse_ev_per_angstrom"] == pytest.approx(expected)
        error = (values["energy"] - values["energy_label"])[rows] / sizes[rows]
        assert row["energy_per_atom_mae_ev"] == pytest.approx(np.mean(np.abs(error)))
        assert row["molecules"] == rows.sum()


def test_a_molecule_counts_at_each_of_its_elements() -> None:
    values = {  # H2O, H2 and a lone O
        "size": np.array([3, 2, 1]),
        "atom_number": np.array([8, 1, 1, 1, 1, 8]),
        "energy": np.array([1.0, 2.0, np.nan]),
        "energy_label": np.zeros(3),
        "charges": np.array([0.1, 0.2, 0.3, 0.4, 0.5, np.nan]),
        "charges_label": np.zeros(6),
    }
    sums = ErrorSums(by_element, "element")
    sums.add(values)
    hydrogen, oxygen = sums.rows()
    assert [hydrogen["element"], oxygen["element"]] == ["H", "O"]
    assert [hydrogen["molecules"], oxygen["molecules"]] == [2, 2]
    assert hydrogen["energy_mae_ev"] == pytest.approx(1.5)
    assert oxygen["energy_mae_ev"] == pytest.approx(1.0)
    assert oxygen["energy_per_atom_mae_ev"] == pytest.approx(1 / 3)
    assert hydrogen["charges_mae_e"] == pytest.approx(0.35)
    assert oxygen["charges_mae_e"] == pytest.approx(0.1)
    assert oxygen["forces_mae_ev_per_angstrom"] is None


def test_classes_of_size_double() -> None:
    sizes = np.array([1, 2, 3, 4, 5, 8, 9, 16, 17])
    error = {"energy": np.ones(9), "energy_label": np.zeros(9)}
    sums = ErrorSums(by_size, "atoms_from", "atoms_to")
    sums.add({"size": sizes, **error})
    found = [
        (row["atoms_from"], row["atoms_to"], row["molecules"]) for row in sums.rows()
    ]
    assert found == [
        (1, 1, 1), (2, 2, 1), (3, 4, 2), (5, 8, 2), (9, 16, 2), (17, 32, 1)
    ]  # fmt: skip


def test_all_groupings_add_up(dataset: PackedDataset, potential: Potential) -> None:
    rows = np.arange(0, len(dataset), 5)
    loader = PackedMemmapLoader(dataset, 16).subset(rows, shuffle=False)
    predictions = evaluate_potential(potential, loader)
    whole, tables = predictions.errors()[0], predictions.errors_by()
    for name in ("size", "level"):
        assert sum(row["molecules"] for row in tables[name]) == len(rows)
    [level] = tables["level"]
    assert level.pop("level") == dataset.levels[0]
    # the whole is summed state by state
    assert level.keys() <= whole.keys()
    for name, value in level.items():
        there = whole[name]
        close = value is not None and value == pytest.approx(there, rel=1e-12)
        assert close or value is there is None, name
    # each atom has one element, so squares of force errors add up
    numbers = dataset.take("atomic_numbers", dataset.atom_rows(rows))
    share = {chemical_symbols[z]: np.mean(numbers == z) for z in np.unique(numbers)}
    rmse = "forces_rmse_ev_per_angstrom"
    mean = sum(share[row["element"]] * row[rmse] ** 2 for row in tables["element"])
    assert mean == pytest.approx(whole[rmse] ** 2)
    titles = [table.title for table in tables_by(tables)]
    assert [title.split(":")[0] for title in titles] == [
        "by element",
        "by number of atoms",
    ]


def test_nothing_to_evaluate_is_said() -> None:
    with pytest.raises(ValueError, match="no molecule to evaluate"):
        Predictions([], np.zeros(0, int))


def test_unknown_state_names_dataset_and_molecule(dataset: PackedDataset) -> None:
    config = ModelConfig(num_features=8, num_radial=8, num_blocks=1, cutoff=5.0)
    narrow = untrained_potential(config, elements=(1, 6, 7, 8, 9), states=[(0, 1)])
    with pytest.raises(ValueError, match=r"ladders, molecule 1: .*not trained on"):
        evaluate_potential(narrow, PackedMemmapLoader(dataset, 16, shuffle=False))


def test_gaps_use_the_states_that_the_labels_define(
    dataset: PackedDataset, potential: Potential
) -> None:
    ladders = find_ladders(dataset, np.arange(len(dataset)))
    assert len(ladders) == 84  # two or three geometries of each of 29 molecules
    water = next(ladder for ladder in ladders if ladder.name == "H2O")
    neutral, cation = ElectronicState(0, 1), ElectronicState(1, 2)
    assert water.gap_states()["ionization_energy"] == (cation, neutral)
    gap = next(
        c for c in compare_gaps(potential, [water]) if c.kind == "ionization_energy"
    )
    energies = [
        result.energy
        for result in potential.evaluate(water.atoms(), states=[cation, neutral])
    ]
    assert gap.model == pytest.approx(energies[0] - energies[1], abs=1e-5)
    assert gap.reference == pytest.approx(12.6, abs=0.5)  # water, eV


def test_unbound_anions_do_not_enter_the_affinity_errors(
    dataset: PackedDataset, potential: Potential
) -> None:
    ladders = find_ladders(dataset, np.arange(len(dataset)))
    found = compare_gaps(potential, ladders)
    bound = [c for c in found if c.kind == "electron_affinity" and c.reference > 0.2]
    assert gap_errors(found)["electron_affinity"]["count"] == len(bound)
    assert 0 < len(bound) < sum(c.kind == "electron_affinity" for c in found)


@pytest.mark.parametrize("state", [(0, 2), (0, 3)], ids=["radicals", "triplets"])
def test_a_model_that_never_saw_a_neutral_singlet(
    dataset: PackedDataset, potential: Potential, state: tuple[int, int]
) -> None:
    """The constant of a state counts once for a molecule, not once for an atom."""
    record = StateRecord(charge=0, multiplicity=state[1], reference_energy=7.5)
    metadata = potential.metadata.model_copy(
        update={
            "states": [record],
            "element_energies": dict.fromkeys(["H", "C", "N", "O", "F"], -100.0),
        }
    )
    only = Potential(metadata, potential.params)
    charge, spin = dataset.states_of(np.arange(len(dataset)))
    rows = np.flatnonzero((charge == 0) & (spin == state[1]))[:6]
    loader = PackedMemmapLoader(dataset, 4).subset(rows, shuffle=False)
    predictions = evaluate_potential(only, loader)
    for row in rows:
        molecule = dataset.molecules(np.array([row]))
        atoms = molecule.to_atoms(0)
        [result] = only.evaluate(atoms, [state], ("energy",))
        label = float(molecule.values["energy"][0])
        left = predictions.values["energy"] - predictions.values["energy_label"]
        assert np.abs(left - (result.energy - label)).min() < 1e-3
    assert predictions.errors()[0]["dipole_mae_e_angstrom"] > 0.0
