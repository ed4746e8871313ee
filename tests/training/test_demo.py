"""The stages of the demonstration after its training, with the pretrained model."""

from pathlib import Path

import numpy as np
import pytest
from physnet_training import demo
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset
from physnet_training.train import gaps
from physnet_training.train.gaps import Ladder, find_ladders, frames_by_energy
from physnet_training.train.split import Split
from rich.console import Console

from physnet_ase.potential import Potential, load_potential

DATA = Path(__file__).parents[2] / "training" / "data" / "states_dft"


@pytest.fixture(scope="module")
def ladders(tmp_path_factory: pytest.TempPathFactory) -> list[Ladder]:
    target = tmp_path_factory.mktemp("data") / "ladders"
    convert(DATA / "ladders.npz", target)
    dataset = PackedDataset.open(target)
    return find_ladders(dataset, np.arange(len(dataset)))


@pytest.fixture(scope="module")
def potential() -> Potential:
    return load_potential(demo.PRETRAINED)


def test_first_frame_is_the_relaxed_one(ladders: list[Ladder]) -> None:
    methane = frames_by_energy(ladders)["CH4"][0]
    bonds = np.linalg.norm(methane.positions[1:] - methane.positions[0], axis=1)
    np.testing.assert_allclose(bonds, 1.0821, atol=1e-3)


def test_relaxation_reports_bonds_and_writes_structures(
    ladders: list[Ladder], potential: Potential, tmp_path: Path
) -> None:
    start = frames_by_energy(ladders)["H2O"][0]
    report = demo.relax_states(start, potential, tmp_path)
    assert report["neutral"]["converged"]
    # wB97X/def2-SVPD: 0.959 Å; the model was trained on water
    assert report["neutral"]["first_bond_angstrom"] == pytest.approx(0.959, abs=0.01)
    assert report["cation"]["first_bond_angstrom"] > 0.97
    assert {p.name for p in tmp_path.iterdir()} == {"H2O_neutral.xyz", "H2O_cation.xyz"}
    console = Console(record=True, width=200)
    demo.print_relaxation(report, console)
    assert "H2O cation: E = -20" in console.export_text()


def test_the_shipped_model_says_what_it_does_not_know() -> None:
    console = Console(record=True, width=300)
    assert demo.ask_unfamiliar(console)["score"] > 1.0
    assert "C2F4 in states-organic: the surroundings of" in console.export_text()


def test_gap_rows_hold_model_label_and_adiabatic_value(
    ladders: list[Ladder], potential: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaps, "MOLECULES", ("H2O",))
    water = [ladder for ladder in ladders if ladder.name == "H2O"]
    rows = gaps.gap_rows(water, set(), potential, potential)
    assert [row["gap"] for row in rows] == list(gaps.SHORT)
    ionization = rows[0]
    assert ionization["error_ev"] == pytest.approx(
        ionization["model_ev"] - ionization["dft_ev"]
    )
    assert abs(ionization["error_ev"]) < 0.05
    assert ionization["model_ev"] == ionization["pretrained_ev"]
    assert 11.5 < ionization["adiabatic_model_ev"] < ionization["model_ev"]
    console = Console(record=True, width=200)
    console.print(gaps.gap_table(rows))
    assert "H2O" in console.export_text()


def test_comparison_keeps_what_was_held_out_apart(
    ladders: list[Ladder], potential: Potential
) -> None:
    water = [ladder for ladder in ladders if ladder.name == "H2O"]
    rows = [np.array(ladder.rows) for ladder in water]
    split = Split(np.concatenate(rows[1:]), rows[0], np.zeros(0, int))
    found = gaps.compare(water, split, potential, potential)
    counts = {
        part: models["this model"].get("ionization_energy", {"count": 0})["count"]
        for part, models in found.items()
    }
    assert counts == {
        "training set": 2,
        "held-out geometries": 1,
        "held-out molecules": 0,
    }
    console = Console(record=True, width=200)
    console.print(gaps.summary_table(found))
    text = console.export_text()
    assert "held-out geometries" in text
    assert "(2)" in text
