"""H5MD: the layout of the specification, appending and cutting, what is damaged."""

import sys

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from physnet_ase.simulate.analysis import read_frames
from physnet_ase.simulate.trajectory import TrajectoryWriter, check_trajectory
from physnet_ase.units import FEMTOSECOND

h5py = pytest.importorskip("h5py")
TIMESTEP = 0.5


def frames(first, end, *, periodic=False):
    found = []
    for index in range(first, end):
        atoms = molecule("H2O")
        atoms.positions += 0.1 * index
        atoms.set_tags([3, 2, 1])
        atoms.set_constraint(FixAtoms([0]))
        atoms.set_momenta(np.full((3, 3), 0.5 * index), apply_constraint=False)
        atoms.info = {"name": "mine", "time_fs": 2.0 * index}
        atoms.info |= {"charge": index % 2, "spin_multiplicity": 1 + index % 2}
        results = {"energy": -float(index), "forces": np.full((3, 3), 0.25)}
        results |= {"charges": np.array([-0.5, 0.25, 0.25]) * index}
        if periodic:
            atoms.cell, atoms.pbc = [5.0, 6.0, 7.0 + index], True
            atoms.info["pressure_GPa"] = 0.1 * index
            results["stress"] = np.arange(6.0) * index
        else:
            results["dipole"] = np.array([0.0, 0.0, index])
        atoms.calc = SinglePointCalculator(atoms, **results)
        found.append(atoms)
    return found


def writer(path, keep_frames=0):
    return TrajectoryWriter(path, 3, keep_frames=keep_frames, timestep_fs=TIMESTEP)


@pytest.mark.parametrize("periodic", [False, True], ids=["open", "cell"])
def test_frames_come_back_as_they_were(tmp_path, periodic):
    path = tmp_path / "run.h5md"
    given = frames(0, 5, periodic=periodic)
    writer(path).write(given[:3])
    writer(path, 3).write(frames(7, 9, periodic=periodic))
    writer(path, 3).write(given[3:])  # what came after the checkpoint is cut
    for one, two in zip(read_frames(path), given, strict=True):
        np.testing.assert_allclose(one.positions, two.positions, atol=1e-6)
        np.testing.assert_allclose(one.get_momenta(), two.get_momenta(), atol=1e-5)
        np.testing.assert_array_equal(one.cell.array, two.cell.array)
        np.testing.assert_array_equal(one.get_tags(), two.get_tags())
        assert one.info == two.info
        assert repr(one.constraints) == repr(two.constraints)
        for name, value in two.calc.results.items():
            np.testing.assert_allclose(one.calc.results[name], value, atol=1e-6)


def test_the_layout_is_that_of_the_specification(tmp_path):
    path = tmp_path / "run.h5md"
    writer(path).write(frames(0, 3, periodic=True))
    with h5py.File(path) as file:
        assert file["h5md"].attrs["version"].tolist() == [1, 1]
        assert set(file["h5md"]) == {"author", "creator"}
        atoms = file["particles/atoms"]
        assert atoms["species"][:].tolist() == [8, 1, 1]
        assert atoms["box"].attrs["dimension"] == 3
        assert list(atoms["box"].attrs["boundary"]) == ["periodic"] * 3
        assert atoms["box/edges/value"].shape == (3, 3, 3)
        for name in ("position", "velocity", "force", "box/edges"):
            assert atoms[name]["step"][:].tolist() == [0, 4, 8]
            assert atoms[name]["time"][:].tolist() == [0.0, 2.0, 4.0]
        assert atoms["position/time"].attrs["unit"] == "fs"
        assert atoms["position/value"].attrs["unit"] == "Angstrom"
        speed = 0.5 / molecule("H2O").get_masses()[1] * FEMTOSECOND
        assert atoms["velocity/value"][1, 1, 0] == pytest.approx(speed)
        assert atoms["velocity/value"].attrs["unit"] == "Angstrom fs-1"
        assert atoms["force/value"][0, 0, 0] == pytest.approx(0.25 * 96.48533)
        observed = file["observables/atoms"]
        assert observed["total_charge/value"][:].tolist() == [0, 1, 0]
        assert observed["potential_energy/value"][:].tolist() == [0.0, -1.0, -2.0]
        assert observed["pressure/value"].attrs["unit"] == "GPa"


def test_damage_and_a_missing_package_are_said(tmp_path, monkeypatch):
    path = tmp_path / "run.h5md"
    writer(path).write(frames(0, 3))
    with pytest.raises(ValueError, match="holds 3 whole frames.*written after 4"):
        writer(path, 4)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="not a readable H5MD file"):
        writer(path, 3)
    with h5py.File(tmp_path / "other.h5md", "w") as file:
        file.create_group("h5md")
    with pytest.raises(ValueError, match="not a trajectory of physnet-ase"):
        read_frames(tmp_path / "other.h5md")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"pip install 'physnet-ase\[h5md\]'"):
        check_trajectory(tmp_path / "new.h5md", may_exist=False)
