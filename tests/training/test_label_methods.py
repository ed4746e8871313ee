"""Methods by name and import path, and the physics of tblite's and PySCF's labels."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculationFailed
from ase.calculators.fd import calculate_numerical_forces
from physnet_training.label import Method
from physnet_training.label import calculators as label_calculators
from physnet_training.label.run import label_geometry

from physnet_ase.state import ElectronicState
from physnet_ase.units import BOHR, HARTREE

DATA = Path(__file__).parents[2] / "training" / "data" / "states_dft"
XY = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]])  # a strain of both off-diagonals
NEUTRAL, CATION = ElectronicState(0, 1), ElectronicState(1, 2)


@pytest.fixture
def pyscf(monkeypatch):
    """PySCF with one thread: more of them wait for each other on small molecules."""
    package = pytest.importorskip("pyscf")
    monkeypatch.setattr("pyscf.scf.hf.MUTE_CHKFILE", True)  # it leaves files open
    threads = package.lib.num_threads()
    package.lib.num_threads(1)
    yield package
    package.lib.num_threads(threads)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gfn3-xtb",), "unknown method 'gfn3-xtb'; use gfn2-xtb, gfn1-xtb, pyscf, or"),
        (("no_such.module:f",), "no_such.module:f: no_such.module cannot be imported"),
        (("ase.build:missing",), "ase.build has no function or class 'missing'"),
        (
            ("ase.build:bulk", "pbe"),
            "--functional belong to --method pyscf, not to ase",
        ),
        (("ase.build:bulk", None, "sto-3g", 3), "--basis and --grid-level belong to"),
        (
            ("ase.build:bulk", None, None, None, True),
            "--density-fit belong to --method",
        ),
    ],
)
def test_methods_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Method(*arguments)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(
        label_calculators.importlib.util, "find_spec", lambda name: None
    )
    for name, package in (("gfn2-xtb", "tblite"), ("pyscf", "pyscf")):
        message = f"--method {name} needs {package}, .*; install physnet-ase.qm."
        with pytest.raises(ImportError, match=message):
            Method(name)


def test_a_factory_must_return_a_calculator():
    with pytest.raises(TypeError, match="nothing must return an ASE calculator, it re"):
        Method("label_calculator:nothing").calculator(NEUTRAL)


def test_a_factory_of_the_current_folder(tmp_path, monkeypatch):
    text = "from ase.calculators.emt import EMT\ndef make(charge, multiplicity):\n"
    (tmp_path / "own_factory.py").write_text(f"{text}    return EMT()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    method = Method("own_factory:make", level="EMT")
    found = label_geometry(molecule("N2"), NEUTRAL, method)
    assert set(found) == {"energy", "forces", "seconds"}
    assert method.level == "EMT"
    assert method.versions()["own_factory"] == "unknown"


def test_mulliken_populations_count_the_electrons():
    density = np.diag([2.0, 1.0])
    overlap = np.array([[1.0, 0.2], [0.2, 1.0]])
    found = label_calculators.mulliken_populations(
        density, overlap, np.array([1, 1]), 3
    )
    assert found.tolist() == [0.0, 3.0, 0.0]


def tight_binding(method, atoms, state):
    """Energy by tblite's own ASE calculator, spin-polarised."""
    tblite = pytest.importorskip("tblite.ase")
    atoms = atoms.copy()
    atoms.calc = tblite.TBLite(
        method=method,
        charge=state.charge,
        multiplicity=state.multiplicity,
        spin_polarization=1.0,
        verbosity=0,
    )
    return atoms


@pytest.mark.parametrize(
    ("name", "method"), [("gfn2-xtb", "GFN2-xTB"), ("gfn1-xtb", "GFN1-xTB")]
)
def test_tight_binding_is_tblite_s_and_spin_polarised(name, method):
    pytest.importorskip("tblite")
    water, energies = molecule("H2O"), []
    for state in (NEUTRAL, CATION):
        label = label_geometry(water, state, Method(name))
        direct = tight_binding(method, water, state)
        energies.append(label["energy"])
        # Their constants are of another CODATA year.
        assert label["energy"] == pytest.approx(direct.get_potential_energy(), rel=1e-8)
        assert np.allclose(label["forces"], direct.get_forces(), atol=1e-6)
        assert np.allclose(label["dipole"], direct.get_dipole_moment(), atol=1e-6)
        assert np.allclose(label["charges"], direct.get_charges(), atol=1e-8)
        assert sum(label["charges"]) == pytest.approx(state.charge, abs=1e-8)
        unpaired = state.multiplicity - 1
        assert sum(label["spin_populations"]) == pytest.approx(unpaired, abs=1e-8)
    direct = tight_binding(method, water, CATION)
    direct.calc.set(spin_polarization=None)
    assert energies[1] < direct.get_potential_energy() - 0.1


def test_energies_alone_have_settings_of_their_own():
    pytest.importorskip("tblite")
    method = Method("gfn2-xtb", forces=False)
    values = label_geometry(molecule("H2O"), ElectronicState(0, 1), method)
    assert {"energy", "dipole", "charges"} <= values.keys()
    assert "forces" not in values
    assert method.settings() != Method("gfn2-xtb").settings()


def test_tight_binding_forces_and_dipole_are_derivatives():
    pytest.importorskip("tblite")
    atoms = molecule("CH3")
    atoms.rattle(0.05, seed=2)
    atoms.calc = Method().calculator(ElectronicState(0, 2))
    numerical = calculate_numerical_forces(atoms, eps=1e-3)
    assert np.allclose(atoms.get_forces(), numerical, atol=1e-4)
    ion = molecule("H2O")
    ion.calc = Method().calculator(CATION)
    here = ion.get_dipole_moment()
    ion.positions += [1.0, -2.0, 0.5]  # about the origin: it moves with a charge
    assert np.allclose(ion.get_dipole_moment() - here, [1.0, -2.0, 0.5], atol=1e-6)


def test_tight_binding_of_a_cell_has_a_stress_and_no_dipole():
    pytest.importorskip("tblite")
    atoms = molecule("H2O", cell=[3.5, 4.0, 4.5], pbc=True)
    atoms.rattle(0.1, seed=0)
    method = Method("gfn1-xtb")
    label = label_geometry(atoms, NEUTRAL, method)
    assert "dipole" not in label
    energies = []
    for strain in (1e-3, -1e-3):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ (np.eye(3) + strain * XY), True)
        energies.append(label_geometry(strained, NEUTRAL, method)["energy"])
    slope = (energies[0] - energies[1]) / (2e-3 * atoms.get_volume())
    assert label["stress"][5] == pytest.approx(slope / 2, rel=1e-3)


def test_tight_binding_that_does_not_converge_is_a_failure():
    pytest.importorskip("tblite")
    calculator = Method().calculator(NEUTRAL)
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0]])
    with pytest.raises(CalculationFailed, match="Too close interatomic distances"):
        calculator.get_property("energy", atoms)


def test_density_functional_cation_is_pyscf_s(pyscf):
    from pyscf import dft

    water = molecule("H2O")
    method = Method("pyscf", "pbe", "def2-svp", 2, density_fit=False)
    label = label_geometry(water, CATION, method)
    field = dft.UKS(pyscf_molecule(pyscf, water), xc="pbe")
    field.grids.level = 2
    # The density comes from the next coarser grid: an error of second order.
    assert label["energy"] == pytest.approx(field.kernel() * HARTREE, abs=1e-4)
    gradient = field.nuc_grad_method().kernel()
    assert np.allclose(label["forces"], -gradient * HARTREE / BOHR, atol=2e-3)
    _, charges = field.mulliken_pop(verbose=0)
    assert np.allclose(label["charges"], charges, atol=1e-3)
    assert sum(label["spin_populations"]) == pytest.approx(1.0, abs=1e-8)
    assert label["s_squared"] == pytest.approx(field.spin_square()[0], abs=1e-4)
    assert 0.75 <= label["s_squared"] < 0.76


def pyscf_molecule(pyscf, atoms, charge=1, spin=1):
    geometry = zip(atoms.get_chemical_symbols(), atoms.positions / BOHR, strict=True)
    return pyscf.gto.M(
        atom=list(geometry),
        unit="Bohr",
        basis="def2-svp",
        charge=charge,
        spin=spin,
        verbose=0,
    )


def test_density_fitting_changes_gaps_by_less_than_a_millielectronvolt(pyscf):
    gaps = {}
    for fitted in (True, False):
        method = Method("pyscf", basis="def2-svp", grid_level=1, density_fit=fitted)
        energies = [
            label_geometry(molecule("H2O"), state, method)["energy"]
            for state in (NEUTRAL, CATION)
        ]
        gaps[fitted] = energies[1] - energies[0]
    assert gaps[True] != gaps[False]
    assert gaps[True] == pytest.approx(gaps[False], abs=1e-3)


@pytest.fixture
def excited(pyscf):
    """The field of a water cation without an electron in its second-highest orbital."""
    from pyscf import dft, scf

    field = dft.UKS(pyscf_molecule(pyscf, molecule("H2O")), xc="pbe")
    field.grids.level = 1
    ground = field.kernel()
    occupations = field.mo_occ.copy()
    last = int(occupations[1].sum()) - 1
    occupations[1, [last, last + 1]] = occupations[1, [last + 1, last]]
    excited = scf.addons.mom_occ(field.copy(), field.mo_coeff, occupations)
    excited.kernel(field.make_rdm1(field.mo_coeff, occupations))
    assert excited.e_tot > ground + 0.05
    return field, excited


def test_a_saddle_point_is_left_and_a_minimum_is_not(excited):
    ground, above = excited
    assert label_calculators.downhill_orbitals(ground) is None
    orbitals = label_calculators.downhill_orbitals(above)
    overlap = above.get_ovlp()
    for spin in orbitals:
        assert np.allclose(spin.T @ overlap @ spin, np.eye(len(spin)), atol=1e-8)


@pytest.mark.parametrize("stability", [True, False])
def test_an_excited_solution_is_no_label(excited, monkeypatch, stability):
    ground, above = excited
    converge, starts = label_calculators._converge, []

    def begin_excited(field, density=None):
        starts.append(density)
        if len(starts) == 1:
            field = above
            field.get_occ = type(ground).get_occ.__get__(field)
            return field
        return converge(field, density)

    monkeypatch.setattr(label_calculators, "_converge", begin_excited)
    method = Method(
        "pyscf", "pbe", "def2-svp", 1, density_fit=False, stability=stability
    )
    energy = label_geometry(molecule("H2O"), CATION, method)["energy"]
    expected = ground if stability else above
    assert energy == pytest.approx(expected.e_tot * HARTREE, abs=1e-3)
    assert len(starts) == (2 if stability else 1)


def test_density_functional_reproduces_the_shipped_labels(pyscf):
    with np.load(DATA / "states_dft.npz") as file:
        data = {name: file[name] for name in file.files}
    row = int(np.flatnonzero((data["name"] == "H2") & (data["charge"] == 1))[0])
    first = int(data["n_atoms"][:row].sum())
    here = slice(first, first + int(data["n_atoms"][row]))
    atoms = Atoms(data["numbers"][here], data["positions"][here])
    state = ElectronicState(1, int(data["multiplicity"][row]))
    # wB97X/def2-SVPD by default
    method = Method("pyscf", grid_level=2, density_fit=False)
    label = label_geometry(atoms, state, method)
    assert label["energy"] == pytest.approx(data["energy"][row], abs=1e-4)
    assert np.allclose(label["forces"], data["forces"][here], atol=1e-3)
    assert np.allclose(label["dipole"], data["dipole"][row], atol=1e-4)
    spins = data["spin_populations"][here]
    assert np.allclose(label["spin_populations"], spins, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"functional": "nope"},
            "--functional nope: PySCF cannot calculate it .KeyErr",
        ),
        ({"grid_level": 12}, "--grid-level must be 0 to 9, got 12"),
    ],
)
def test_settings_of_pyscf_are_tried_at_once(pyscf, options, message):
    with pytest.raises(ValueError, match=message):
        Method("pyscf", **options)


@pytest.mark.filterwarnings("ignore:Basis may be available in basis-set-exchange")
def test_what_pyscf_cannot_do_is_said(pyscf):
    method = Method("pyscf", "pbe", "nope")
    with pytest.raises(
        ValueError, match="--basis nope: PySCF has no such basis set fo"
    ):
        method.check_elements([1])
    crystal = bulk("C")
    with pytest.raises(CalculationFailed, match="pyscf is for open systems only"):
        Method("pyscf", "pbe", "sto-3g").calculator(NEUTRAL).get_potential_energy(
            crystal
        )


def test_an_scf_without_convergence_is_a_failure(pyscf, monkeypatch):
    monkeypatch.setattr(label_calculators, "_MAX_CYCLES", 1)
    calculator = Method("pyscf", "pbe", "sto-3g", 0).calculator(CATION)
    with pytest.raises(
        CalculationFailed, match="SCF did not converge in 1 cycles, nor"
    ):
        calculator.get_potential_energy(molecule("H2O"))
