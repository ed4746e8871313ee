"""The audit: counts that are right, rows that deserve it, none that do not."""

import json
from pathlib import Path

import numpy as np
import physnet_training.packed.reader
import pytest
from data_files import batch
from physnet_training.audit.audit import Histogram, LevelFits, audit_dataset
from physnet_training.audit.plausibility import read_for_audit
from physnet_training.convert import convert
from physnet_training.packed import PackedDataset, PackedWriter

from physnet_ase.references import References
from physnet_ase.state import ElectronicState

DATA = Path(__file__).parents[2] / "training" / "data" / "states_dft"
ATOM = {1: -13.6, 8: -2041.0}


def sound(make_molecules, count=200, seed=0):
    """Molecules whose energies are a sum over atoms, with a little noise."""
    rng = np.random.default_rng(seed)
    made = make_molecules(rng.integers(2, 7, count), ["energy", "forces"], seed=seed)
    values = made["values"]
    first = np.cumsum(made["n_atoms"]) - made["n_atoms"]
    per_atom = np.vectorize(ATOM.get)(values["atomic_numbers"])
    energy = np.add.reduceat(per_atom, first) + 12.0 * values["total_charge"]
    values["energy"] = energy + rng.normal(scale=0.02, size=count) * made["n_atoms"]
    net = np.add.reduceat(values["forces"], first) / made["n_atoms"][:, None]
    values["forces"] = values["forces"] - np.repeat(net, made["n_atoms"], axis=0)
    return made


def written(folder, *parts, levels=None):
    with PackedWriter(folder) as writer:
        for index, part in enumerate(parts):
            names = None if levels is None else [levels[index]] * len(part["n_atoms"])
            writer.append(batch(part, levels=names))
    return PackedDataset.open(folder)


def test_counts(make_molecules, tmp_path):
    made = sound(make_molecules)
    made["values"]["forces"][0] = np.nan  # the first molecule has them in part
    made["values"]["energy"][7] = np.nan
    dataset = written(tmp_path / "set", made)
    calls = []
    found = audit_dataset(dataset, on_progress=lambda *call: calls.append(call))
    assert json.loads(json.dumps(found)) == found
    numbers, n = made["values"]["atomic_numbers"], made["n_atoms"]
    owners = np.repeat(np.arange(200), n)
    assert found["elements"] == [
        {
            "symbol": symbol,
            "atoms": int((numbers == z).sum()),
            "molecules": len(np.unique(owners[numbers == z])),
        }
        for symbol, z in (("H", 1), ("O", 8))
    ]
    states = {(s["charge"], s["multiplicity"]): s["count"] for s in found["states"]}
    assert states == dataset.states
    assert found["labels"] == {
        "energy": {"complete": 199, "partial": 0},
        "forces": {"complete": 199, "partial": 1},
    }
    assert found["levels"] == [{"level": None, "count": 200}]
    sizes = found["sizes"]
    assert (sizes["min"], sizes["max"], sizes["mean"]) == (
        2,
        6,
        pytest.approx(n.mean()),
    )
    assert sizes["histogram"]["counts"] == np.bincount(n)[2:].tolist()
    magnitudes = np.linalg.norm(made["values"]["forces"], axis=1)[1:]
    assert found["forces"]["p50"] == pytest.approx(np.median(magnitudes), rel=0.03)
    assert found["forces"]["largest"] == pytest.approx(magnitudes.max())
    row = int(owners[1:][np.argmax(magnitudes)])
    assert found["forces"]["largest_row"] == row
    assert found["suspicious"] == {"total": 0, "by_kind": {}, "rows": []}
    assert found["duplicates"]["count"] == 0
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert calls[-1] == (200, 200)


def test_every_kind_of_suspicious_row(make_molecules, tmp_path):
    made = sound(make_molecules)
    values, n = made["values"], made["n_atoms"]
    first = np.cumsum(n) - n
    values["spin_multiplicity"][3] += 1
    values["positions"][first[20] + 1] = values["positions"][first[20]] + [0.3, 0, 0]
    values["positions"][first[30] + 1] = values["positions"][first[30]] + [0.03, 0, 0]
    values["forces"][first[40]] += [300.0, 0, 0]
    values["forces"][first[40] + 1] -= [300.0, 0, 0]
    values["forces"][first[50]] += [9.0, 0, 0]
    values["energy"][60] -= 200.0
    values["energy"][61] /= 27.2114
    values["forces"][first[70]] = np.inf
    found = audit_dataset(written(tmp_path / "set", made))["suspicious"]
    assert [(row["row"], row["kind"]) for row in found["rows"]] == [
        (3, "invalid"),
        (20, "short distance"),
        (30, "invalid"),
        (40, "large force"),
        (50, "net force"),
        (60, "energy"),
        (61, "energy"),
        (70, "invalid"),
    ]
    reasons = {row["row"]: row["reason"] for row in found["rows"]}
    assert "molecule 3 (0-based): multiplicity" in reasons[3]
    assert reasons[20] == "two atoms are 0.3 Å apart"
    assert "another atom is 0.030 Å away" in reasons[30]
    assert "a force of 3" in reasons[40]
    assert "sum up to 9" in reasons[50]
    values = {row["row"]: row["value"] for row in found["rows"]}
    assert values[60] == pytest.approx(-200, abs=0.5)
    assert found["total"] == 8


def test_rows_are_capped_and_the_numbers_are_not(make_molecules, tmp_path):
    made = sound(make_molecules)
    made["values"]["spin_multiplicity"] += 1
    found = audit_dataset(written(tmp_path / "set", made))["suspicious"]
    assert found["by_kind"]["invalid"] == found["total"] == 200
    assert [row["row"] for row in found["rows"]] == list(range(20))


def test_levels_are_fitted_apart(make_molecules, tmp_path):
    """Energies of two methods, 1,000 eV apart per oxygen: nothing to complain."""
    first, second = sound(make_molecules), sound(make_molecules, seed=1)
    starts = np.cumsum(second["n_atoms"]) - second["n_atoms"]
    oxygens = np.add.reduceat(
        second["values"]["atomic_numbers"] == 8, starts, dtype=int
    )
    second["values"]["energy"] += 1000.0 * oxygens
    found = audit_dataset(
        written(tmp_path / "set", first, second, levels=["PBE", "xTB"])
    )
    assert found["suspicious"]["total"] == 0
    fits = {fit["level"]: fit["elements"] for fit in found["energies"]["fits"]}
    assert fits["PBE"]["O"] == pytest.approx(-2041, abs=0.1)
    assert fits["xTB"]["O"] == pytest.approx(-1041, abs=0.1)


def test_a_core_hole_in_the_shipped_data(tmp_path):
    """CH4+ as a quartet with a hole in the core of carbon, 281 eV too high.

    Such a label stood in the first version of the shipped data.
    """
    with np.load(DATA / "states_dft.npz") as file:
        arrays = dict(file)
    row = int(np.flatnonzero((arrays["name"] == "CH4") & (arrays["charge"] == 1))[0])
    for name, hole in (("sound", 0.0), ("hole", 281.0)):
        arrays["energy"][row] += hole
        np.savez(tmp_path / f"{name}.npz", **arrays)
        convert([tmp_path / f"{name}.npz", DATA / "ladders.npz"], tmp_path / name)
        found = audit_dataset(PackedDataset.open(tmp_path / name))
        assert {v["verdict"] for v in found["units"]} == {"plausible"}
        assert found["duplicates"]["count"] == 0
        rows = found["suspicious"]["rows"]
        assert [suspect["row"] for suspect in rows] == ([row] if hole else [])
    assert rows[0]["value"] == pytest.approx(281, abs=10)


def test_pieces_do_not_matter(make_molecules, tmp_path, monkeypatch):
    made = sound(make_molecules)
    made["values"]["energy"][60] -= 200.0
    dataset = written(tmp_path / "set", made, made)
    whole = audit_dataset(dataset)
    monkeypatch.setattr(physnet_training.packed.reader, "_BATCH_ATOMS", 50)
    parts = audit_dataset(dataset)
    fits = [report.pop("energies")["fits"][0]["elements"] for report in (whole, parts)]
    assert fits[0] == pytest.approx(fits[1])
    for report in (whole, parts):
        for row in report["suspicious"]["rows"]:
            row["value"] = round(row["value"], 6)
    assert whole == parts
    assert whole["duplicates"] | {"rows": []} == {
        "count": 200, "contradicting": 0, "rows": []
    }  # fmt: skip


def test_dataset_without_energies_or_with_nonsense(make_molecules, tmp_path):
    made = make_molecules([3, 4], [])
    found = audit_dataset(written(tmp_path / "bare", made))
    assert found["energies"] is found["forces"] is None
    made["values"]["atomic_numbers"][4] = 0
    dataset = written(tmp_path / "padded", made)
    with pytest.raises(
        ValueError, match=r"padded: molecule 1, atom 1 .*unknown element"
    ):
        audit_dataset(dataset)


def test_fit_in_pieces_is_the_fit_of_all(make_molecules, tmp_path, monkeypatch):
    dataset = written(tmp_path / "set", sound(make_molecules))
    monkeypatch.setattr(physnet_training.packed.reader, "_BATCH_MOLECULES", 17)
    parts = list(dataset.batches(read_for_audit(dataset), check=False))
    assert len(parts) == 12
    fit = LevelFits(dataset)
    for part in parts:
        fit.add(part)
    whole = dataset.molecules(range(200))
    states = {ElectronicState(*pair): n for pair, n in dataset.states.items()}
    expected, _ = References.fit([whole], dataset.elements, states)
    [found] = fit.references.values()
    assert found.element_energies == pytest.approx(expected.element_energies, abs=1e-8)
    values = whole.values
    wanted = expected.of_molecules(
        values["atomic_numbers"],
        whole.owner,
        values["total_charge"],
        values["spin_multiplicity"],
    )
    predicted = np.concatenate([fit.predict(part) for part in parts])
    np.testing.assert_allclose(predicted, wanted, atol=1e-7)


def test_unknown_multiplicities_are_fitted_as_the_lowest(make_molecules, tmp_path):
    made = sound(make_molecules)
    made["values"]["spin_multiplicity"] = np.full(200, np.nan)
    found = audit_dataset(written(tmp_path / "set", made))
    assert found["suspicious"]["total"] == 0
    assert found["energies"]["deviation_per_atom"]["p95_absolute"] < 0.1


def test_histogram_keeps_what_lies_beyond_and_its_percentiles(rng):
    histogram = Histogram(0.1, 10, bins=400, logarithmic=True)
    values = np.exp(rng.normal(size=5000) * 0.5)
    histogram.add(np.concatenate([values, [np.nan, np.inf, 0.0, -1.0, 1e9, 1e-9]]))
    assert histogram.total == 5002
    assert histogram.quantile(0.5) == pytest.approx(np.median(values), rel=0.02)
    shown = histogram.summary()
    assert sum(shown["counts"]) == 5002
    assert len(shown["edges"]) == len(shown["counts"]) + 1 <= 101
    assert Histogram(0, 1).summary() == {"edges": [], "counts": []}
