import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from physnet_training.label import (
    Method,
    Plan,
    Run,
    Sampling,
    parse_states,
    read_structures,
)
from physnet_training.label.output import Journal, read_labels

SPRINGS = "label_calculator:springs"


def plan(names, states="0,1 1,2", **sampling):
    structures = read_structures(names, own_states=False)
    return Plan.of(
        structures, Method(SPRINGS), parse_states(states), Sampling(**sampling)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "0;1",
            "--states takes pairs of charge,multiplicity such as '0,1 1,2', got '0",
        ),
        ("0,1 1,0", "--states takes pairs .*, got '1,0'"),
        ("0,1.5", "--states takes pairs .*, got '0,1.5'"),
        ("", "--states must name each state once, got none"),
        ("0,1 0,1", "each state once, got charge 0, multiplicity 1 twice"),
    ],
)
def test_states_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_states(text)


def test_structures_are_read_from_files_frames_and_names(tmp_path):
    path = tmp_path / "two.xyz"
    ase.io.write(path, [molecule("H2O"), molecule("CH4")])
    found = read_structures([str(path), f"{path}@1", "NH3"])
    assert [s.name for s in found] == ["H2O", "CH4", "CH4", "NH3"]
    assert [s.source for s in found] == [str(path), str(path), f"{path}@1", "NH3"]


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms("HH", [[0, 0, 0], [0, 0, 0.05]]), "frame 1 .*atom . .*0.050 Å away"),
        (Atoms("H", [[np.nan, 0, 0]]), "frame 1 .*: position of atom 0 is .nan"),
        (
            Atoms("O", info={"charge": 0.5}),
            "frame 1 .*charge.* whole number, got .*0.5",
        ),
        (Atoms("O", info={"spin": 2}), "frame 1 .*multiplicity 2 .*is impossible"),
    ],
)
def test_unusable_structures_are_named(tmp_path, atoms, message):
    path = tmp_path / "in.extxyz"
    ase.io.write(path, [molecule("H2O"), atoms])
    with pytest.raises(ValueError, match=message):
        read_structures([str(path)])


def test_a_damaged_file_and_a_missing_one_are_named(tmp_path):
    path = tmp_path / "bad.xyz"
    path.write_text("3\n\nH 0 0\n")
    with pytest.raises(ValueError, match="bad.xyz: ASE cannot read this file"):
        read_structures([str(path)])
    with pytest.raises(ValueError, match="H20: no such file, .* did you mean H2"):
        read_structures(["H20"])


def test_parity_skips_states_and_names_structures_without_any():
    found = plan(["H2O", "CH3", "H"], "0,1 1,2 -1,6")
    assert {str(s): n for s, n in found.skipped.items()} == {
        "charge 0, multiplicity 1": 2,
        "charge +1, multiplicity 2": 2,
        "charge -1, multiplicity 6": 2,
    }
    assert [c.states for c in found.chains] == [parse_states("0,1 1,2 -1,6")]
    assert found.impossible == [
        "CH3 (CH3, 9 electrons when neutral)",
        "H (H, 1 electrons when neutral)",
    ]
    message = "none of the states 0,1 is possible for any structure: CH3 .CH3, 9 elec"
    with pytest.raises(ValueError, match=message):
        plan(["CH3"], "0,1")


def test_kinds_of_chains():
    vertical = plan(["H2O", "O"], kind="displace", samples=4)
    assert [(len(c.states), c.samples, c.kind) for c in vertical.chains] == [
        (2, 4, "displace"),
        (2, 1, "none"),  # an atom has one geometry
    ]
    own = plan(["H2O"], kind="dynamics", samples=4, temperatures=(300, 600))
    assert [(c.surface, c.states, c.temperature) for c in own.chains] == [
        (state, (state,), temperature)
        for temperature in (300, 600)
        for state in parse_states("0,1 1,2")
    ]
    shared = plan(["H2O"], kind="dynamics", vertical=True)
    assert [(c.surface, len(c.states)) for c in shared.chains] == [
        (parse_states("0,1")[0], 2)
    ]


def test_keys_tell_labels_apart_and_depend_on_nothing_else():
    both = plan(["H2O", "H2O", "CH4"], kind="displace", samples=2)
    keys = [key for key, *_ in both.labels()]
    assert len(keys) == len(set(keys)) == 3 * 2 * 2
    alone = plan(["CH4"], "1,2", kind="displace", samples=3)
    [chain] = alone.chains
    other = plan(["CH4"], "1,2 0,1", kind="displace", samples=1).chains[0]
    assert chain.label_key(0, chain.surface) == other.label_key(0, chain.surface)


def test_runs_out_of_range_are_refused():
    with pytest.raises(ValueError, match="--workers must be at least 1, got 0"):
        Run(workers=0)
    with pytest.raises(ValueError, match="--timeout must be positive .s., got 0"):
        Run(timeout_s=0)


def test_journal_keeps_floats_bit_by_bit_and_drops_an_unfinished_line(tmp_path, rng):
    values = {"positions": rng.normal(size=(3, 3)).tolist(), "energy": 0.1 + 0.2}
    path = tmp_path / "run.labels" / "journal.jsonl"
    with Journal(path, {"seed": (1, 2)}) as journal:
        journal.fail("one", "first")
        journal.add("label", "one", values)
        journal.fail("two", "no convergence")
        with pytest.raises(ValueError, match="is being written by another process"):
            Journal(path, {"seed": (1, 2)})
    with path.open("ab") as file:
        file.write(b'{"label":"two","energy":1')
    assert read_labels(path) == ({"seed": [1, 2]}, [{"label": "one", **values}])
    with Journal(path, {"seed": (1, 2)}) as journal:
        assert "one" in journal
        assert journal.failures == {"two": "no convergence"}
        assert journal["one"] == {"label": "one", **values}
        assert path.read_bytes().endswith(b'convergence"}\n')


def test_journal_refuses_other_settings_and_damage(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, {"sampling": {"seed": 0}}) as journal:
        journal.fail("one", "because")
    with pytest.raises(ValueError, match="begun with sampling seed = 0, asked is 1; f"):
        Journal(path, {"sampling": {"seed": 1}})
    path.write_text(path.read_text().replace('{"failure"', '{"failure'))
    with pytest.raises(ValueError, match="jsonl, line 2: .*; remove the line, its lab"):
        Journal(path, {"sampling": {"seed": 0}})
    path.write_text("")
    with pytest.raises(ValueError, match="is no journal of labels: it names no settin"):
        read_labels(path)
