"""The same molecules in every format that is read, for the tests of the readers."""

import json

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from physnet_training.packed import PackedWriter

from physnet_ase.molecules import Molecules
from physnet_ase.units import HARTREE

UNITS = {
    "energy": "eV",
    "forces": "eV/angstrom",
    "positions": "angstrom",
    "dipole": "e*angstrom",
    "stress": "eV/angstrom^3",
}
PER_MOLECULE = ("energy", "dipole", "stress", "total_charge", "spin_multiplicity")
RESULTS = {
    "energy": "energy",
    "forces": "forces",
    "dipole": "dipole",
    "charges": "charges",
    "spin_populations": "magmoms",
    "stress": "stress",
}
"""Label -> its name among ASE's results."""


def molecules_of(n_atoms, values, names=None, levels=None):
    """Flat arrays as the packed writer takes them."""
    words = [None if w is None else np.array(w) for w in (names, levels)]
    n = np.asarray(n_atoms)
    return Molecules(n, dict(values), np.arange(len(n)), *words)


def batch(molecules, names=None, levels=None):
    """The same of ``n_atoms`` and ``values`` in a dictionary."""
    return molecules_of(molecules["n_atoms"], molecules["values"], names, levels)


def write_ragged(path, molecules, units=UNITS, save=np.savez):
    """Flat arrays under this project's own names."""
    values = dict(molecules["values"])
    numbers = values.pop("atomic_numbers")
    extra = {} if units is None else {"units": json.dumps(units)}
    save(path, n_atoms=molecules["n_atoms"], numbers=numbers, **values, **extra)


def write_padded(path, molecules, save=np.savez):
    """PhysNet's layout: R Z E F N D Q; what it does not name keeps our names."""
    n, values = molecules["n_atoms"], molecules["values"]
    mask = np.arange(n.max()) < n[:, None]
    keys = {"atomic_numbers": "Z", "positions": "R", "forces": "F", "energy": "E"}
    keys |= {"dipole": "D", "total_charge": "Q", "spin_multiplicity": "S"}
    arrays = {"N": n, "units": json.dumps(UNITS)}
    for name, array in values.items():
        key = keys.get(name, name)
        if len(array) == n.sum() and name not in PER_MOLECULE:
            arrays[key] = np.zeros((*mask.shape, *array.shape[1:]), array.dtype)
            arrays[key][mask] = array
        else:
            arrays[key] = array
    save(path, **arrays)


def as_frames(molecules):
    """Atoms with results; what is NaN for a molecule is left out."""
    n, values = molecules["n_atoms"], molecules["values"]
    for row, end in enumerate(np.cumsum(n)):
        own = slice(end - n[row], end)
        atoms = Atoms(values["atomic_numbers"][own], values["positions"][own])
        atoms.info["charge"] = int(values["total_charge"][row])
        atoms.info["multiplicity"] = int(values["spin_multiplicity"][row])
        results = {}
        for name, key in RESULTS.items():
            if name in values:
                part = values[name][row if name in PER_MOLECULE else own]
                if np.isfinite(part).all():
                    results[key] = part
        atoms.calc = SinglePointCalculator(atoms, **results)
        yield atoms


def write_extxyz(path, molecules):
    """ASE's own writer, in its units and with eight decimals."""
    ase.io.write(path, list(as_frames(molecules)), format="extxyz")


def write_trajectory(path, molecules):
    """ASE's trajectory, with all digits."""
    ase.io.write(path, list(as_frames(molecules)), format="traj")


def write_packed(path, molecules):
    """A packed dataset with a manifest."""
    with PackedWriter(path) as writer:
        writer.append(batch(molecules))


def write_hdf5(path, molecules):
    """One group per molecule, energies in hartree, units as attributes."""
    import h5py

    n, values = molecules["n_atoms"], molecules["values"]
    with h5py.File(path, "w") as file:
        for row, end in enumerate(np.cumsum(n)):
            group = file.create_group(f"molecule {row:04d}")
            for name, array in values.items():
                own = slice(row, row + 1)
                part = array[own]
                if name not in PER_MOLECULE:
                    part = array[end - n[row] : end][None]
                group[name] = part / HARTREE if name == "energy" else part
                unit = "hartree" if name == "energy" else UNITS.get(name)
                if unit:
                    group[name].attrs["units"] = unit
