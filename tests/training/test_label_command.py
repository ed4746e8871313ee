import json

import numpy as np
import pytest
from physnet_training.cli import app
from physnet_training.packed import PackedDataset
from typer.testing import CliRunner

SPRINGS = ["--method", "label_calculator:springs", "--workers", "1"]


def collect(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def call(*arguments):
    return CliRunner().invoke(app, ["label", *map(str, arguments)])


def test_label_then_inspect(tmp_path):
    target = tmp_path / "set"
    options = ["--states", "-1,2 0,1 0,2", "--sampling", "displace", "--samples", "2"]
    found = call("H2O", "CH3", target, *SPRINGS, *options)
    assert found.exit_code == 0, found.output
    assert "is complete; " in found.output
    summary = CliRunner().invoke(app, ["inspect", str(target), "--json"])
    content = json.loads(summary.stdout)
    assert content["num_molecules"] == 6  # two states of water, one of methyl
    assert content["num_groups"] == 2
    again = call("H2O", "CH3", target, *SPRINGS, *options)
    assert again.exit_code == 0, again.output


def test_structures_without_a_state_are_named(tmp_path):
    found = call("H2O", "CH3", tmp_path / "set", *SPRINGS, "--states", "0,1")
    assert found.exit_code == 0, found.output
    assert (
        "warning: none of the states is possible: CH3 (CH3, 9 electrons when neutral)"
        in found.output
    )


def test_failures_are_counted_and_the_file_is_named(tmp_path):
    method = ["--method", "label_calculator:raising", "--workers", "1"]
    found = call("H2O", tmp_path / "set", *method, "--states", "0,1 1,2")
    assert found.exit_code == 0, found.output
    output = " ".join(found.output.split())
    assert "failed labels: 1, see" in output
    assert "failures.csv; --retry-failed tries them again" in output
    found = call("H2O", tmp_path / "other", *method, "--states", "1,2")
    assert found.exit_code == 1
    assert "error: none of 1 labels could be calculated" in found.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--amplitude", "0"], "--amplitude: Input should be greater than 0, got 0.0"),
        (["--temperature", "-3"], "--temperature: Input should be greater than 0, got"),
        (["--timestep", "0"], "--timestep: Input should be greater than 0, got 0.0"),
        (["--burn-in", "-1"], "--burn-in: Input should be greater than or equal to 0"),
        (["--states", "0"], "--states takes pairs of charge,multiplicity such as"),
        (["--basis", "sto-3g"], "--basis belong to --method pyscf, not to label_calc"),
        (["--no-stability"], "--stability belong to --method pyscf, not to label_ca"),
        (["--workers", "0"], "--workers must be at least 1, got 0"),
        (["--sampling-method", "x"], "unknown method 'x'"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    found = call("H2O", tmp_path / "set", *SPRINGS, *options)
    assert found.exit_code == 2
    assert message in found.output
    assert list(tmp_path.iterdir()) == []


def test_a_target_is_needed_and_never_overwritten(tmp_path):
    found = call("H2O")
    assert found.exit_code == 2
    assert "label needs at least one STRUCTURE and a TARGET folder" in found.output
    (tmp_path / "set").mkdir()
    found = call("H2O", tmp_path / "set", *SPRINGS)
    assert found.exit_code == 2
    assert "exists already and there is no set.labels to go on from" in found.output


def test_other_options_do_not_mix_with_what_was_begun(tmp_path):
    assert call("H2O", tmp_path / "set", *SPRINGS).exit_code == 0
    found = call("H2O", tmp_path / "set", *SPRINGS, "--seed", "1")
    assert found.exit_code == 2
    assert "was begun with sampling seed = 0, asked is 1; finish it" in found.output


def test_more_structures_states_and_samples_extend_a_set(tmp_path):
    target, sampling = tmp_path / "set", ["--sampling", "displace", "--samples"]
    assert (
        call("H2O", target, *SPRINGS, *sampling, "1", "--states", "0,1").exit_code == 0
    )
    before = (tmp_path / "set.labels" / "journal.jsonl").read_bytes()
    states = ["--states", "0,1 1,2"]
    found = call("H2O", "CH4", target, *SPRINGS, *sampling, "2", *states)
    assert found.exit_code == 0, found.output
    after = (tmp_path / "set.labels" / "journal.jsonl").read_bytes()
    assert after.startswith(before)
    assert after.count(b'"label"') == 8
    assert PackedDataset.open(target).states == {(0, 1): 4, (1, 2): 4}


def test_finished_labels_are_collected_at_any_time(tmp_path):
    assert call("H2O", tmp_path / "set", *SPRINGS, "--states", "0,1 1,2").exit_code == 0
    run, target = tmp_path / "set.labels", tmp_path / "now"
    journal = run / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    contaminated = json.loads(lines[2]) | {"s_squared": 1.3, "label": "another"}
    journal.write_text("".join([*lines, json.dumps(contaminated), "\n", '{"label":"h']))
    found = collect("collect-labels", run, target)
    assert "now: 3 labels, 0 left out" in found.output
    dataset = PackedDataset.open(target)
    assert dataset.levels == ("label_calculator:springs",)
    [source] = dataset.manifests[0]["provenance"]
    assert source["residuals"]["num_contaminated"] == 1
    clean = collect("collect-labels", run, tmp_path / "c", "--max-contamination", "0.1")
    assert "c: 2 labels, 1 left out as contaminated" in clean.output
    assert len(PackedDataset.open(tmp_path / "c")) == 2
    found = collect("collect-labels", tmp_path / "nowhere", tmp_path / "d")
    assert found.exit_code == 2
    assert "nowhere is no folder TARGET.labels of a run, and no journal" in found.output


def test_smiles_with_their_relatives(tmp_path):
    pytest.importorskip("rdkit")
    (tmp_path / "in.json").write_text('[{"smiles": "CO", "heavy": 2}]')
    options = ["--relatives", "radicals,protonated", "--max-relatives", "1"]
    states = ["--states", "0,1 1,2 0,2 1,1"]
    target = tmp_path / "set"
    found = call(tmp_path / "in.json", target, *SPRINGS, *options, *states)
    assert found.exit_code == 0, found.output
    dataset = PackedDataset.open(target)
    assert dataset.groups == ("CO", "C[O]", "C[OH2+]")
    charges, multiplicities = dataset.states_of(np.arange(len(dataset)))
    assert list(zip(charges.tolist(), multiplicities.tolist(), strict=True)) == [
        (0, 1),
        (1, 2),
        (0, 2),
        (1, 1),
        (1, 1),
    ]
    found = call("smiles:CO", tmp_path / "other", *SPRINGS, "--relatives", "cousins")
    assert found.exit_code == 2
    assert "--relatives must be of radicals, protonated, deprotonated, got cousins" in (
        " ".join(found.output.split())
    )


def test_help_tells_how_to_go_on():
    found = call("--help")
    assert found.exit_code == 0
    text = " ".join(found.output.split())
    assert "Interrupt it at any time" in text
    assert "--executor" in text
