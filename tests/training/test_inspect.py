"""The description of a dataset, and its table."""

import json
from io import StringIO

import numpy as np
from physnet_training.inspect import describe, table
from physnet_training.packed import PackedDataset
from rich.console import Console


def test_description_counts_and_is_json(make_dataset):
    found = describe(PackedDataset.open(make_dataset([2, 3, 1], labels=["energy"])))
    assert json.loads(json.dumps(found)) == found
    assert (found["num_molecules"], found["num_atoms"]) == (3, 6)
    assert found["atoms_per_molecule"] == {"min": 1, "mean": 2.0, "max": 3}
    assert found["elements"] == ["H", "O"]
    assert found["labels"] == {"energy": 3}
    assert sum(state["count"] for state in found["states"]) == 3
    assert found["units"]["energy"] == "eV"
    assert found["notes"] == []


def test_table_shows_what_is_missing(make_molecules, make_dataset):
    molecules = make_molecules([2, 3], labels=["energy", "forces"])
    molecules["values"]["energy"][1] = np.nan
    del molecules["values"]["spin_multiplicity"]
    dataset = PackedDataset.open(make_dataset(molecules=molecules))
    console = Console(width=100, record=True, file=StringIO())
    console.print(table(describe(dataset)))
    text = console.export_text()
    assert "energy: 1 molecules" in text
    assert "forces: all" in text
    assert "--assume-multiplicity lowest" in text
    assert "5 (2 to 3 per molecule, 2.5 on average)" in text
