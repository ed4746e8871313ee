"""A calculator for the tests of labelling: springs whose strength is the state's.

It can fail, hang and die on demand, so that workers meet what real methods do.
"""

import os
import time
from pathlib import Path

import numpy as np
from ase.calculators.calculator import Calculator, all_changes


class Springs(Calculator):
    """Energy 0.5 k Σ (d - 1)² over pairs plus a constant, both of the state."""

    implemented_properties = ["energy", "forces", "dipole", "charges", "magmoms"]  # noqa: RUF012

    def __init__(self, charge, multiplicity, *, trouble=""):
        super().__init__()
        self.charge, self.multiplicity, self.trouble = charge, multiplicity, trouble

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.meet_trouble()
        atoms = self.atoms
        stiffness = 5.0 + self.charge + 0.5 * self.multiplicity
        vectors = atoms.positions[:, None] - atoms.positions[None]
        distances = np.linalg.norm(vectors, axis=-1) + np.eye(len(atoms))
        stretch = distances - 1.0
        forces = -stiffness * (stretch / distances)[..., None] * vectors
        share = np.full(len(atoms), 1.0 / len(atoms))
        self.results = {
            "energy": -10.0 * self.charge
            + self.multiplicity
            + 0.25 * stiffness * (stretch**2).sum(),
            "forces": forces.sum(axis=1),
            "dipole": self.charge * atoms.positions.mean(axis=0),
            "charges": self.charge * share,
            "magmoms": (self.multiplicity - 1) * share,
        }

    def meet_trouble(self):
        if self.charge != 1 or not self.trouble:
            return
        if self.trouble == "raise":
            raise RuntimeError("no convergence\nin 7 cycles")
        if self.trouble == "hang":
            time.sleep(60)
        if self.trouble == "die":
            os._exit(3)
        if self.trouble == "once" and not Path("done-once").exists():
            Path("done-once").touch()
            raise RuntimeError("the first attempt fails")


def springs(charge, multiplicity):
    return Springs(charge, multiplicity)


def raising(charge, multiplicity):
    return Springs(charge, multiplicity, trouble="raise")


def hanging(charge, multiplicity):
    return Springs(charge, multiplicity, trouble="hang")


def dying(charge, multiplicity):
    return Springs(charge, multiplicity, trouble="die")


def failing_once(charge, multiplicity):
    return Springs(charge, multiplicity, trouble="once")


def slow(charge, multiplicity):
    time.sleep(0.02)
    return Springs(charge, multiplicity)


class NotFinite(Springs):
    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["energy"] = np.nan


class EnergyOnly(Springs):
    implemented_properties = ["energy"]  # noqa: RUF012


def nothing(charge, multiplicity):
    return None
