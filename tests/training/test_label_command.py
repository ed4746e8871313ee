import json

import pytest
from physnet_training.cli import app
from typer.testing import CliRunner

SPRINGS = ["--method", "label_calculator:springs", "--workers", "1"]


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


def test_array_tasks_say_that_others_are_missing(tmp_path):
    target = tmp_path / "set"
    tasks = ["--process-count", "2", "--sampling", "displace", "--samples", "2"]
    found = call("H2O", target, *SPRINGS, *tasks, "--process-index", "1")
    assert found.exit_code == 0, found.output
    assert "set will appear when all array tasks have finished" in found.output
    found = call("H2O", target, *SPRINGS, *tasks, "--process-index", "0")
    assert "set is complete" in found.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--amplitude", "0"], "--amplitude: Input should be greater than 0, got 0.0"),
        (["--temperature", "-3"], "--temperature: Input should be greater than 0, got"),
        (["--timestep", "0"], "--timestep: Input should be greater than 0, got 0.0"),
        (["--burn-in", "-1"], "--burn-in: Input should be greater than or equal to 0"),
        (["--states", "0"], "--states takes pairs of charge,multiplicity such as"),
        (["--basis", "sto-3g"], "--basis belong to --method pyscf, not to label_calc"),
        (
            ["--process-index", "1"],
            "--process-index must be 0 to 0 (--process-count 1)",
        ),
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
    found = call("CH4", tmp_path / "set", *SPRINGS)
    assert "was begun with structures = 1 structures, " in found.output


def test_help_tells_how_to_go_on():
    found = call("--help")
    assert found.exit_code == 0
    text = " ".join(found.output.split())
    assert "Interrupt it at any time" in text
    assert "--process-index" in text
