"""Charge and multiplicity of sources: the calculator's places, never 0 in silence."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from physnet_training.convert import convert
from physnet_training.label import read_structures
from physnet_training.packed import PackedDataset

from physnet_ase.commands.structure_files import read_structure
from physnet_ase.state import STATE_KEYS, resolve_state

WATER = molecule("H2O")
ROWS = "\n".join(
    "{} {:.5f} {:.5f} {:.5f}".format(s, *p)
    for s, p in zip(WATER.symbols, WATER.positions, strict=True)
)


def water(comment, columns="", extra=("", "", "")):
    """One frame of water, with more columns if asked for."""
    rows = [f"{row} {more}" for row, more in zip(ROWS.splitlines(), extra, strict=True)]
    head = f"3\nProperties=species:S:1:pos:R:3{columns} energy=-2064.0 {comment}\n"
    return head + "\n".join(rows) + "\n"


def states(path, target, **options):
    convert(path, target, **options)
    return PackedDataset.open(target).states


@pytest.mark.parametrize(
    "comment",
    [
        "molecular_charge=1 molecular_multiplicity=2",
        "net_charge=1 spin_mult=2",
        "total_charge=1 total_spin=2",
        "Charge=1 Multiplicity=2",
        "CHARGE=+1 MULT=2.0",
        "Q=1 S=2",
        "charge=1 unpaired_electrons=1",
        "charge=1 uhf=1",
        "Total_Charge=1 n_unpaired=1 multiplicity=2",
        "charge=1 Q=1 net_charge=1 M=2",
    ],
)
def test_every_key_of_the_state_is_read(tmp_path, comment):
    (tmp_path / "a.xyz").write_text(water(comment))
    assert states(tmp_path / "a.xyz", tmp_path / "set") == {(1, 2): 1}
    found = resolve_state(ase.io.read(tmp_path / "a.xyz"))
    assert (found.charge, found.multiplicity) == (1, 2)


@pytest.mark.parametrize(
    "comment",
    [
        "charge=1 net_charge=0",
        "charge=1 Charge=-1 mult=2",
        "charge=1 multiplicity=2 unpaired_electrons=2",
        "uhf=0 spin=3",
        "Q=1 total_charge=2",
    ],
)
def test_contradictions_are_refused_with_the_row(tmp_path, comment):
    (tmp_path / "a.xyz").write_text(water("charge=1 mult=2") + water(comment))
    with pytest.raises(ValueError, match=r"molecule 1 \(0-based\), line 6.*contradict"):
        convert(tmp_path / "a.xyz", tmp_path / "set")


def test_a_chosen_key_settles_a_contradiction(tmp_path):
    (tmp_path / "a.xyz").write_text(water("charge=0 net_charge=1 spin=1 uhf=1"))
    keys = {"total_charge": "net_charge", "spin_multiplicity": "uhf"}
    assert states(tmp_path / "a.xyz", tmp_path / "set", keys=keys) == {(1, 2): 1}


def test_initial_charges_and_moments_are_those_of_the_calculator(tmp_path):
    columns = ":initial_charges:R:1:initial_magmoms:R:1"
    frame = water("", columns, ("1.0 1.0", "0.0 0.0", "0.0 0.0"))
    (tmp_path / "a.xyz").write_text(frame)
    assert states(tmp_path / "a.xyz", tmp_path / "set") == {(1, 2): 1}
    # what the information says comes first, as in the calculator
    frame = water("charge=-1 spin=2", columns, ("1.0 1.0", "0.0 0.0", "0.0 0.0"))
    (tmp_path / "b.xyz").write_text(frame)
    assert states(tmp_path / "b.xyz", tmp_path / "other") == {(-1, 2): 1}


@pytest.mark.parametrize("suffix", ["xyz", "db", "traj", "npz"])
@pytest.mark.parametrize("charge", [0, -1, 2])
def test_atomic_charges_that_sum_to_another_charge(tmp_path, suffix, charge):
    path = written(tmp_path / f"a.{suffix}", charges=[0.9, 0.1, 0.0], charge=charge)
    with pytest.raises(ValueError, match=r"molecule 0 .*atomic charges sum to \+1"):
        convert(path, tmp_path / "set", energy_unit="eV")
    convert(path, tmp_path / "set", energy_unit="eV", ignore=("charges",))


@pytest.mark.parametrize("suffix", ["xyz", "db", "traj", "npz"])
@pytest.mark.parametrize("total", [1, -1, 0])
def test_without_a_charge_the_sum_of_atomic_charges_is_taken(tmp_path, suffix, total):
    path = written(tmp_path / f"a.{suffix}", charges=[total - 0.4, 0.2, 0.2])
    report = convert(path, tmp_path / "set", energy_unit="eV")
    dataset = PackedDataset.open(tmp_path / "set")
    assert dataset.take("total_charge", np.array([0]))[0] == total
    taken = "0 taken" if total == 0 else "the sum of the atomic charges taken"
    assert any(taken in note for note in report.sources[0].notes)


def test_charges_that_sum_to_nothing_whole_say_nothing(tmp_path):
    path = written(tmp_path / "a.xyz", charges=[0.4, 0.2, 0.2], charge=1)
    report = convert(path, tmp_path / "set")
    assert report.num_molecules == 1


def written(path, charges, charge=None):
    """Water with atomic charges in any format."""
    atoms = molecule("H2O")
    info = {} if charge is None else {"charge": charge}
    if path.suffix == ".npz":
        np.savez(
            path, R=atoms.positions[None], Z=atoms.numbers, energy=[-2064.0],
            charges=[charges], **{k: [v] for k, v in info.items()},
        )  # fmt: skip
        return path
    atoms.calc = SinglePointCalculator(atoms, energy=-2064.0, charges=charges)
    if path.suffix == ".db":
        connect(path).write(atoms, **info)
    else:
        atoms.info.update(info)
        form = {"xyz": "extxyz"}.get(path.suffix[1:])
        ase.io.write(path, atoms, format=form)
    return path


@pytest.mark.parametrize(
    ("symbol", "charge", "multiplicity"),
    [("C", 0, 3), ("O", 0, 3), ("N", 0, 4), ("He", 0, 1), ("Fe", 0, 5), ("O", 1, 4)],
)
def test_free_atoms_get_their_ground_state(tmp_path, symbol, charge, multiplicity):
    atom = Atoms(symbol, info={"REF_energy": -1.0, "charge": charge})
    ase.io.write(tmp_path / "a.xyz", atom, format="extxyz")
    found = states(tmp_path / "a.xyz", tmp_path / "set", assume_multiplicity="lowest")
    assert found == {(charge, multiplicity): 1}
    # the same where the dataset, not the source, lacks the multiplicity
    convert(tmp_path / "a.xyz", tmp_path / "unknown")
    assumed = PackedDataset.open(tmp_path / "unknown", assume_multiplicity="lowest")
    assert assumed.count_states(range(1)) == {(charge, multiplicity): 1}


def test_free_ions_that_no_table_knows_are_refused(tmp_path):
    atom = Atoms("Fe", info={"REF_energy": -1.0, "charge": 2})
    ase.io.write(tmp_path / "a.xyz", atom, format="extxyz")
    with pytest.raises(
        ValueError, match=r"a\.xyz: molecule 0 .* free atom .*charge \+2"
    ):
        convert(tmp_path / "a.xyz", tmp_path / "set", assume_multiplicity="lowest")
    convert(tmp_path / "a.xyz", tmp_path / "set")
    assumed = PackedDataset.open(tmp_path / "set", assume_multiplicity="lowest")
    with pytest.raises(ValueError, match="molecule 0 is a free atom without"):
        assumed.states_of(np.arange(1))


KEYS = [key for keys in STATE_KEYS.values() for key in keys]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    info=st.dictionaries(
        st.sampled_from(KEYS + [key.upper() for key in KEYS if len(key) > 1]),
        st.sampled_from([-1, 0, 1, 2, 3, 1.0]),
        max_size=3,
    ),
    charges=st.sampled_from([None, [1.0, 0.0, 0.0], [-1.0, 0.5, 0.5]]),
    moments=st.sampled_from([None, [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]),
)
def test_the_four_routes_agree_or_all_refuse(tmp_path_factory, info, charges, moments):
    atoms = molecule("H2O")
    atoms.info.update(info)
    atoms.set_initial_charges(charges)
    atoms.set_initial_magnetic_moments(moments)
    atoms.calc = SinglePointCalculator(atoms, energy=-2064.0)
    folder = tmp_path_factory.mktemp("agree")
    ase.io.write(folder / "a.traj", atoms)

    def command():  # what physnet-ase sees of the file
        return resolve_state(read_structure(str(folder / "a.traj"), None, None))

    def labelled():  # what physnet-train label sees of it
        return read_structures([str(folder / "a.traj")])[0].state

    try:
        wanted = resolve_state(atoms)
    except ValueError:
        with pytest.raises(ValueError, match=r"a\.traj: molecule 0"):
            convert(folder / "a.traj", folder / "set", assume_multiplicity="lowest")
        for route in (command, labelled):
            with pytest.raises(ValueError, match="H2O"):
                route()
        return
    assert command() == wanted
    assert labelled() == wanted
    found = states(folder / "a.traj", folder / "set", assume_multiplicity="lowest")
    assert found == {(wanted.charge, wanted.multiplicity): 1}
