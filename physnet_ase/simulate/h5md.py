"""Trajectories in H5MD: compressed, appended block by block, read by other programs.

The layout is that of H5MD 1.1 (de Buyl, Colberg & Höfling, Comput. Phys. Commun. 2014,
185, 1546): ``particles/atoms`` and ``observables/atoms``, with units as attributes.
Forces are in kJ/mol/Å, the only energy that MDAnalysis reads. What H5MD has no place
for, the user's ``info``, arrays and constraints, stands in ``parameters/start`` as
ASE's JSON.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.jsonio import decode, encode

from physnet_ase.units import FEMTOSECOND, KCAL_PER_MOL

SUFFIX = ".h5md"
_GROUP = "particles/atoms"
_OBSERVED = "observables/atoms"
_FRAMES = 32
"""Frames of a compressed chunk."""
_FORCE = 4.184 / KCAL_PER_MOL
"""One eV/Å in kJ/mol/Å."""
_PER_ATOM = {
    "position": "Angstrom",
    "velocity": "Angstrom fs-1",
    "force": "kJ mol-1 Angstrom-1",
    "charge": "e",
}
_OBSERVABLES = {
    "potential_energy": "eV",
    "kinetic_energy": "eV",
    "total_charge": "e",
    "spin_multiplicity": "",
    "pressure": "GPa",
    "dipole": "e Angstrom",
    "stress": "eV Angstrom-3",
}


def h5py_module() -> Any:
    """h5py, which only this format needs.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ValueError(
            "a trajectory in H5MD needs h5py: pip install 'physnet-ase[h5md]', or "
            "choose .extxyz or .traj"
        ) from None
    return h5py


def append_frames(path: Path, frames: Sequence[Atoms], timestep_fs: float) -> None:
    """Add frames, which have results and momenta; makes the file with the first.

    Raises:
        ValueError: The file is damaged.
    """
    with _opened(path, "a") as file:
        if "h5md" not in file:
            _begin(file, frames[0])
        times = np.array([atoms.info["time_fs"] for atoms in frames])
        written = {
            f"{_GROUP}/{name}": np.array([_per_atom(atoms)[name] for atoms in frames])
            for name in _PER_ATOM
        }
        written |= {
            f"{_OBSERVED}/{name}": np.array([_observed(one)[name] for one in frames])
            for name in _observed(frames[0])
        }
        if frames[0].pbc.any():
            cells = [atoms.cell.array for atoms in frames]
            written[f"{_GROUP}/box/edges"] = np.array(cells)
        _extend(file[f"{_GROUP}/position/step"], np.rint(times / timestep_fs))
        _extend(file[f"{_GROUP}/position/time"], times)
        for name, values in written.items():
            _extend(file[f"{name}/value"], values)


def trim_frames(path: Path, frames: int) -> int:
    """Cut what was written after so many frames; returns how many there were.

    Raises:
        ValueError: The file is damaged.
    """
    with _opened(path, "a") as file:
        series: list[Any] = []
        file.visititems(
            lambda name, item: series.append(item) if _in_time(name) else None
        )
        found = min((len(one) for one in series), default=0)
        if found >= frames:
            for one in series:
                one.resize(frames, axis=0)
        return int(found)


def read_h5md(path: Path) -> list[Atoms]:
    """All frames of a trajectory that was written here, as they were given.

    Raises:
        ValueError: It is damaged, or written by another program.
    """
    with _opened(path, "r") as file:
        if "parameters/start" not in file:
            raise ValueError(
                f"{path}: not a trajectory of physnet-ase; convert it to .extxyz"
            )
        start = decode(file["parameters/start"][()].decode())
        particles, observed = file[_GROUP], file[_OBSERVED]
        times = particles["position/time"][:]
        per_atom = {name: particles[f"{name}/value"][:] for name in _PER_ATOM}
        each = {name: observed[f"{name}/value"][:] for name in observed}
        cells = particles["box/edges/value"][:] if start.pbc.any() else None
    frames: list[Atoms] = []
    for row, time in enumerate(times.tolist()):
        atoms: Atoms = start.copy()
        atoms.set_positions(per_atom["position"][row], apply_constraint=False)
        if cells is not None:
            atoms.cell[:] = cells[row]
        masses = atoms.get_masses()[:, None]
        momenta = per_atom["velocity"][row] / FEMTOSECOND * masses
        atoms.set_momenta(momenta, apply_constraint=False)
        atoms.info["time_fs"] = time
        atoms.info["charge"] = int(each["total_charge"][row])
        atoms.info["spin_multiplicity"] = int(each["spin_multiplicity"][row])
        if "pressure" in each:
            atoms.info["pressure_GPa"] = float(each["pressure"][row])
        results: dict[str, Any] = {
            "energy": float(each["potential_energy"][row]),
            "forces": per_atom["force"][row] / _FORCE,
            "charges": per_atom["charge"][row],
        }
        results |= {k: each[k][row] for k in ("dipole", "stress") if k in each}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def _opened(path: Path, mode: str) -> Any:
    try:
        return h5py_module().File(path, mode)
    except OSError as error:
        raise ValueError(
            f"{path}: not a readable H5MD file ({error}); restore it or start anew"
        ) from error


def _in_time(name: str) -> bool:
    """Whether a path of the file is a series with an entry per frame."""
    timed = name.startswith((f"{_GROUP}/", f"{_OBSERVED}/"))
    return timed and name.rpartition("/")[2] in ("step", "time", "value")


def _begin(file: Any, atoms: Atoms) -> None:
    """Groups and empty series."""
    file.create_group("h5md").attrs["version"] = np.array([1, 1])
    file.create_group("h5md/author").attrs["name"] = "unknown"
    creator = file.create_group("h5md/creator")
    creator.attrs["name"] = "physnet-ase"
    creator.attrs["version"] = version("physnet-ase")
    start = atoms.copy()
    start.info = {k: v for k, v in start.info.items() if k != "time_fs"}
    file["parameters/start"] = encode(start)
    particles = file.create_group(_GROUP)
    particles["species"] = atoms.numbers.astype(np.int32)
    particles["mass"] = atoms.get_masses()
    particles["mass"].attrs["unit"] = "u"
    box = particles.create_group("box")
    box.attrs["dimension"] = 3
    box.attrs["boundary"] = ["periodic" if along else "none" for along in atoms.pbc]
    count = len(atoms)
    for name, unit in _PER_ATOM.items():
        shape = (count,) if name == "charge" else (count, 3)
        _series(file, f"{_GROUP}/{name}", shape, np.float32, unit)
    if atoms.pbc.any():
        _series(file, f"{_GROUP}/box/edges", (3, 3), np.float64, "Angstrom")
    for name, value in _observed(atoms).items():
        whole = name in ("total_charge", "spin_multiplicity")
        dtype = np.int32 if whole else np.float64
        _series(file, f"{_OBSERVED}/{name}", value.shape, dtype, _OBSERVABLES[name])


def _series(file: Any, name: str, shape: Any, dtype: Any, unit: str) -> None:
    """An element that changes in time; all share their steps and times."""
    group = file.create_group(name)
    if name == f"{_GROUP}/position":
        endless: dict[str, Any] = {"maxshape": (None,), "chunks": (1024,)}
        group.create_dataset("step", (0,), np.int64, **endless)
        times = group.create_dataset("time", (0,), np.float64, **endless)
        times.attrs["unit"] = "fs"
    else:
        for shared in ("step", "time"):
            group[shared] = file[f"{_GROUP}/position/{shared}"]
    value = group.create_dataset(
        "value",
        (0, *shape),
        dtype,
        maxshape=(None, *shape),
        chunks=(_FRAMES, *shape),
        compression="gzip",
        shuffle=True,
    )
    if unit:
        value.attrs["unit"] = unit


def _extend(dataset: Any, values: np.ndarray) -> None:
    before = len(dataset)
    dataset.resize(before + len(values), axis=0)
    dataset[before:] = values


def _per_atom(atoms: Atoms) -> dict[str, np.ndarray]:
    results = atoms.calc.results
    return {
        "position": atoms.positions,
        "velocity": atoms.get_velocities() * FEMTOSECOND,
        "force": results["forces"] * _FORCE,
        "charge": results["charges"],
    }


def _observed(atoms: Atoms) -> dict[str, np.ndarray]:
    """What is known of a whole frame."""
    results, info = atoms.calc.results, atoms.info
    found = {
        "potential_energy": results["energy"],
        "kinetic_energy": atoms.get_kinetic_energy(),
        "total_charge": info["charge"],
        "spin_multiplicity": info["spin_multiplicity"],
        "pressure": info.get("pressure_GPa"),
        "dipole": results.get("dipole"),
        "stress": results.get("stress"),
    }
    return {k: np.asarray(v) for k, v in found.items() if v is not None}
