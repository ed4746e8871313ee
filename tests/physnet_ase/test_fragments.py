"""Fragments out of each other's sight: how they are cut, and what each holds."""

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from structures import central_differences, displaced

from physnet_ase import PhysNetCalculator, simulate, untrained_potential
from physnet_ase.config import ModelConfig
from physnet_ase.fragments import candidate_states, partings, share_out
from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import evaluation_pairs
from physnet_ase.state import ElectronicState

CUTOFF = 4.0
CONFIG = ModelConfig(
    num_features=8,
    num_radial=8,
    num_blocks=2,
    num_residual_atomic=1,
    num_residual_interaction=1,
    cutoff=CUTOFF,
    spin_populations=True,
    num_heads=2,
)
STATES = ((0, 1), (1, 2), (-1, 2), (0, 3), (0, 2), (1, 1))


@pytest.fixture(scope="module")
def potential():
    model = untrained_potential(CONFIG, (1, 6, 7, 8), STATES, seed=3)
    return model.astype("float64")


def cut(atoms):
    molecules = Molecules.from_atoms([atoms])
    pairs = evaluation_pairs(molecules, CUTOFF)
    return partings(molecules.values["positions"], pairs, CUTOFF)


def beside(*several, distance=9.0):
    """Molecules in a row, each so far from the one before."""
    row = Atoms()
    for index, one in enumerate(several):
        moved = one.copy()
        moved.set_initial_magnetic_moments(None)
        moved.positions += [index * distance, 0.0, 0.0]
        row += moved
    return row


def test_what_hangs_together_is_not_cut():
    for atoms in (molecule("H2O"), molecule("C6H6"), Atoms("H")):
        [way] = cut(atoms)
        assert way.weight == 1.0
        assert not way.labels.any()
        assert not way.gradient.any()


def test_three_groups_part_one_after_the_other():
    """Gaps of 3.5 and 3.2 Å: the wider one opens first; weights follow the atoms."""
    atoms = Atoms("H6", [[x, 0, 0] for x in (0.0, 0.7, 4.2, 4.9, 8.1, 8.8)])
    ways = cut(atoms)
    assert [way.labels.tolist() for way in ways] == [
        [0, 0, 1, 1, 2, 2],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0],
    ]
    assert sum(way.weight for way in ways) == pytest.approx(1.0, abs=1e-14)
    assert min(way.weight for way in ways) > 0.01
    step = 1e-5
    moved = [[way.weight for way in cut(one)] for one in displaced(atoms, step)]
    for number, way in enumerate(ways):
        numeric = central_differences([row[number] for row in moved], step)
        np.testing.assert_allclose(way.gradient.ravel(), numeric, atol=1e-8)


@st.composite
def fragment_tables(draw):
    """Energies of up to four fragments in some of six states, and a total state."""
    states = st.sampled_from([ElectronicState(*s) for s in STATES])
    table = st.dictionaries(states, st.floats(-20, 20), min_size=1, max_size=4)
    total = st.builds(ElectronicState, st.integers(-2, 2), st.integers(1, 5))
    return draw(st.lists(table, min_size=1, max_size=4)), draw(total)


def couples(states, total):
    """Whether spins can add up to that of the whole: vector sums, one by one."""
    reached = {0}
    for state in states:
        unpaired = state.multiplicity - 1
        reached = {
            s
            for old in reached
            for s in range(abs(old - unpaired), old + unpaired + 1, 2)
        }
    return (
        total.multiplicity - 1 in reached
        and sum(state.charge for state in states) == total.charge
    )


@settings(max_examples=200, deadline=None)
@given(fragment_tables())
def test_states_are_the_lowest_of_all_ways(drawn):
    table, total = drawn
    ways = [
        (sum(own[s] for own, s in zip(table, states, strict=True)), states)
        for states in itertools.product(*table)
        if couples(states, total)
    ]
    found = share_out(table, total)
    if not ways:
        assert found is None
    else:
        assert found is not None
        assert couples(found, total)
        energy = sum(own[s] for own, s in zip(table, found, strict=True))
        assert energy == pytest.approx(min(ways)[0], abs=1e-9)


def test_a_fragment_keeps_an_electron_and_the_sign_of_the_charge():
    known = [ElectronicState(*state) for state in STATES]
    cation, anion = ElectronicState(1, 2), ElectronicState(-1, 2)
    assert candidate_states([1], cation, known) == [ElectronicState(0, 2)]
    water = candidate_states([8, 1, 1], anion, known)
    assert {state.charge for state in water} == {0, -1}


@pytest.mark.parametrize("state", [(1, 2), (-1, 2), (0, 3)])
def test_an_ion_and_a_spectator_add_up(potential, state):
    water, ammonia = molecule("H2O"), molecule("NH3")
    rows = potential.evaluate([water, ammonia], [(0, 1), state], ("energy", "charges"))
    sums = [
        rows[0][1].energy + rows[1][0].energy,
        rows[0][0].energy + rows[1][1].energy,
    ]
    wanted = ("energy", "charges", "spin_populations")
    [both] = potential.evaluate(beside(water, ammonia, distance=1e5), [state], wanted)
    # what is left at 1e5 Å are positions good to 1e-11 Å
    assert both.energy == pytest.approx(min(sums), abs=1e-8)
    on_water = sums[0] < sums[1]
    held = dict(zip(("water", "ammonia"), both.fragments, strict=True))
    assert held["water"][0].tolist() == [0, 1, 2]
    assert held["water"][1] == ElectronicState(*(state if on_water else (0, 1)))
    assert held["ammonia"][1] == ElectronicState(*((0, 1) if on_water else state))
    np.testing.assert_allclose(both.charges[:3], rows[0][on_water].charges, atol=1e-9)
    spin = both.spin_populations[:3].sum()
    assert spin == pytest.approx((state[1] - 1) * on_water, abs=1e-9)


def test_two_radicals_make_a_singlet_or_a_triplet(potential):
    radical = molecule("CH3")
    alone = potential.evaluate(radical, [(0, 2)])[0].energy
    singlet, triplet = potential.evaluate(
        beside(radical, radical, distance=1e5), [(0, 1), (0, 3)]
    )
    assert singlet.energy == pytest.approx(2 * alone, abs=1e-8)
    assert triplet.energy <= singlet.energy + 1e-8


@pytest.mark.parametrize("gap", [9.0, 4.6])
def test_atoms_may_stand_in_any_order(potential, gap):
    """All that is given for fragments, apart or parting, in the atoms' own order."""
    atoms = beside(molecule("H2O"), molecule("NH3"), distance=gap)
    order = np.array([3, 0, 6, 1, 4, 2, 5])
    wanted = ["energy", "energies", "forces", "charges", "dipole", "features"]
    wanted += ["forces_std", "spin_populations"]
    if gap == 9.0:
        wanted += ["hessian", "dipole_derivatives"]
    one, other = potential.evaluate(
        [atoms, atoms[order]], properties=wanted, states=[(1, 2)]
    )
    assert len(one[0].fragments) == 2
    rows = (3 * order[:, None] + np.arange(3)).ravel()
    for name in [*wanted, "member_energies", "energy_std", "charges_std"]:
        expected, found = getattr(one[0], name), getattr(other[0], name)
        if name == "hessian":
            expected = expected[np.ix_(rows, rows)]
        elif name == "dipole_derivatives":
            expected = expected[rows]
        elif np.ndim(expected) and len(expected) == len(atoms):
            expected = expected[order]
        np.testing.assert_allclose(found, expected, atol=1e-8, err_msg=name)


def test_second_derivatives_of_fragments(potential):
    atoms, step = beside(molecule("H2O"), molecule("NH3"), distance=9.0), 1e-4
    atoms.info["charge"] = 1
    wanted = ("hessian", "dipole_derivatives")
    result = potential.evaluate(atoms, properties=wanted)
    rows = potential.evaluate(
        displaced(atoms, step), properties=("energy", "forces", "dipole")
    )
    hessian = -central_differences([row.forces.ravel() for row in rows], step)
    np.testing.assert_allclose(result.hessian, hessian, atol=1e-5)
    slope = central_differences([row.dipole for row in rows], step)
    np.testing.assert_allclose(result.dipole_derivatives, slope, atol=1e-5)
    parting = beside(molecule("H2O"), molecule("NH3"), distance=4.5)
    with pytest.raises(ValueError, match=r"hessian: fragments .* about to part"):
        potential.evaluate(parting, [(1, 2)], ("hessian",))


def test_stress_of_fragments_in_a_box(potential):
    """The derivative of the energy by a strain, where a joint loosens."""
    atoms = beside(molecule("H2O"), molecule("NH3"), distance=4.5)
    atoms.set_cell([30.0, 25.0, 25.0])
    atoms.pbc, atoms.info["charge"] = True, 1
    atoms.center()
    [result] = potential.evaluate(atoms, [(1, 2)], ("stress", "energy"))
    assert len(result.fragments) == 2
    step, energies = 1e-5, []
    for strain in (step, -step):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array * [1 + strain, 1, 1], scale_atoms=True)
        energies.append(potential.evaluate(strained, [(1, 2)])[0].energy)
    numeric = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
    assert abs(numeric) > 1e-7
    assert result.stress[0] == pytest.approx(numeric, rel=1e-4)


def test_what_the_model_knows_no_states_for_is_one_molecule_and_says_so():
    closed = untrained_potential(CONFIG, (1, 6), ((0, 1),), seed=3)
    radicals = beside(molecule("CH3"), molecule("CH3"))
    with pytest.warns(UserWarning, match="knows no states of theirs that make up"):
        [result] = closed.evaluate(radicals, [(0, 1)])
    assert result.fragments == ()
    assert np.isfinite(result.energy)


def test_calculator_relaxation_and_dynamics_agree(potential):
    model = potential.astype("float32")
    atoms = beside(molecule("H2O"), molecule("NH3"))
    atoms.info.update(charge=1, spin_multiplicity=2)
    atoms.calc = PhysNetCalculator(model)
    expected = model.evaluate(atoms)
    assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-5)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-5)
    assert [one.tolist() for one, _ in atoms.calc.fragments] == [
        [0, 1, 2],
        [*range(3, 7)],
    ]
    relaxed = simulate.relax(atoms, model, fmax=1e3)
    assert relaxed.energy == pytest.approx(expected.energy, abs=1e-5)
    both = simulate.run(
        [atoms, beside(molecule("H2O"), molecule("NH3"))],
        model,
        steps=4,
        timestep_fs=0.25,
        events=[(0.5, (1, 2))],
        temperature_K=100.0,
    )
    for run in both:
        last = run.atoms
        again = model.evaluate(last, [(1, 2)], ("energy", "charges"))[0]
        assert last.get_potential_energy() == pytest.approx(again.energy, abs=1e-5)
        np.testing.assert_allclose(last.get_charges(), again.charges, atol=1e-5)
        assert len(again.fragments) == 2


def test_dynamics_of_interleaved_fragments_warns(potential):
    atoms = beside(molecule("H2O"), molecule("NH3"))[[0, 3, 1, 4, 2, 5, 6]]
    with pytest.warns(UserWarning, match="sort the atoms by fragment"):
        simulate.run(atoms, potential.astype("float32"), charge=1, steps=1)


def test_the_command_says_what_each_fragment_holds(potential, capsys):
    from physnet_ase.commands.tables import print_structure, structure_report

    atoms = beside(molecule("H2O"), molecule("NH3"))
    atoms.info.update(charge=1, spin_multiplicity=2)
    atoms.calc = PhysNetCalculator(potential)
    atoms.get_forces()
    report = structure_report(atoms, ElectronicState(1, 2))
    assert sorted(one["charge"] for one in report["fragments"]) == [0, 1]
    print_structure(report)
    printed = capsys.readouterr().out
    assert "H2O, charge" in printed
    assert "H3N, charge" in printed
