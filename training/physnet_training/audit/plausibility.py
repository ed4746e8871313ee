"""Are the numbers of a dataset in the units they should be in? Verdicts with reasons.

No check can prove a unit; each compares a typical number with what physics allows and
calls it suspicious when it is off by about the factor between two units.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.units import BOHR, HARTREE, KCAL_PER_MOL
from physnet_training.audit.energies import molecule_energies
from physnet_training.audit.energy_forces import bond_forces, find_changes
from physnet_training.packed import PackedDataset

Array = NDArray[Any]

_KJ_PER_MOL = KCAL_PER_MOL / 4.184
_READ_AS_EV = {
    "hartree read as eV": 1 / HARTREE,
    "kcal/mol read as eV": 1 / KCAL_PER_MOL,
    "kJ/mol read as eV": 1 / _KJ_PER_MOL,
    "meV read as eV": 1e3,
    "eV read as hartree": HARTREE,
    "eV read as kcal/mol": KCAL_PER_MOL,
    "eV read as kJ/mol": _KJ_PER_MOL,
}
"""Mistake -> factor by which it changes an energy."""
_MISMATCHES = {
    "energies look like hartree read as eV, with forces in eV/Å": 1 / HARTREE,
    "energies look like kcal/mol read as eV, with forces in eV/Å": 1 / KCAL_PER_MOL,
    "forces look like hartree/bohr read as eV/Å": HARTREE / BOHR,
    "forces look like kcal/mol/Å read as eV/Å": KCAL_PER_MOL,
    "forces look like hartree/Å read as eV/Å": HARTREE,
    "forces look like eV/bohr read as eV/Å, or lengths like Å read as bohr": 1 / BOHR,
    "lengths look like bohr read as Å": BOHR,
    "forces look like gradients: the sign is wrong": -1.0,
}
"""Mistake -> factor by which energy differences then exceed the work of the forces."""
_TOTAL = (0.94, 1.2)  # total energies over the estimate; 1.00 to 1.07 in real data
_MISTAKEN = (0.95, 1.1)  # the same in another unit: narrower, as others come near
_RELATIVE = 15.0  # eV per atom; more than any chemical bond gives an atom
_FORCES = (0.1, 10.0)  # eV/Å; medians of sampled geometries are 0.5 to 2.1
_RELAXED = 0.004  # eV/Å; below this the geometries are relaxed in any unit
_STIFFNESS = (0.8, 120.0)  # eV/Å²; 5 to 33 in real data, wrong units are 23 off
_SLOPE = (0.7, 1.4)  # 0.99 to 1.03 in real data; bohr against Å is 0.53
_BONDS = (0.7, 1.45)  # nearest neighbours over covalent radii; bohr against Å is 1.9
_MIN_PAIRS = 10
_MAX_BONDED = 2_000  # molecules whose bonds are looked at
_MAX_ATOMS = 300  # of one molecule, all pairs of which are looked at
_SAMPLE_MOLECULES = 20_000
_SAMPLE_ATOMS = 1 << 19
_SAMPLE_RUN = 100
_CLEAR = 0.4  # correlation of bond lengths with forces; -0.7 to -0.9 in real data
_BOND_STIFFNESS = (1.5, 250.0)  # eV/Å²; 6 (metals) to 143 (N2)
_NOBLE = (2, 10, 18, 36, 54, 86)


class Verdict(NamedTuple):
    """What a quantity looks like.

    Attributes:
        quantity: "energy", "forces", "energy and forces" or "length".
        verdict: "plausible", "suspicious", or "unclear" where nothing can be said.
        text: The reason, with the numbers.
    """

    quantity: str
    verdict: Literal["plausible", "suspicious", "unclear"]
    text: str


def read_for_audit(dataset: PackedDataset) -> list[str]:
    """What an audit looks at, missing where the dataset does not hold it."""
    return sorted(dataset.fields | {"energy", "forces", "level", "pbc", "cell"})


def sample(dataset: PackedDataset) -> list[Molecules]:
    """Up to 20,000 molecules in runs of neighbours, spread evenly over the dataset.

    Neighbours, because frames of one trajectory stand next to each other.
    """
    count = dataset.num_molecules
    per_molecule = dataset.num_atoms // count + 1
    total = min(count, _SAMPLE_MOLECULES, _SAMPLE_ATOMS // per_molecule + 1)
    run = count if total == count else min(total, _SAMPLE_RUN)
    starts = np.linspace(0, count - run, max(total // run, 1)).astype(np.int64)
    names = read_for_audit(dataset)
    return [
        dataset.molecules(range(first, first + run), names, check=False)
        for first in starts.tolist()
    ]


def judge_units(samples: list[Molecules]) -> list[Verdict]:
    """Verdicts on the units of energies, forces and lengths.

    Args:
        samples: Some molecules of the dataset, see ``sample``.
    """
    verdicts = [
        _energy(samples),
        *_forces(samples),
        _length(samples),
    ]
    return [verdict for verdict in verdicts if verdict is not None]


def energy_ratio(samples: list[Molecules]) -> tuple[float, float]:
    """Energies over the estimate for free atoms with all electrons: median, spread.

    The spread is the distance of the quartiles. NaN without energies.
    """
    ratios = np.concatenate(
        [
            batch.values["energy"]
            / molecule_energies(batch.values["atomic_numbers"], batch.first_atom)
            for batch in samples
        ]
    )
    ratios = ratios[np.isfinite(ratios)]
    if not len(ratios):
        return np.nan, np.nan
    low, median, high = np.percentile(ratios, [25, 50, 75])
    return float(median), float(high - low)


def are_total(ratio: float) -> bool:
    """Whether energies are those of all electrons, by their median ratio."""
    return _TOTAL[0] < ratio < _TOTAL[1]


def _energy(samples: list[Molecules]) -> Verdict | None:
    ratio, spread = energy_ratio(samples)
    if np.isnan(ratio):
        return None
    found = f"{ratio:.3g} times the estimate for free atoms with all electrons"
    if are_total(ratio):
        return Verdict("energy", "plausible", f"total energies, {found}")
    narrow = spread < 0.1 * abs(ratio)
    for mistake, factor in _READ_AS_EV.items():
        if narrow and _MISTAKEN[0] < ratio / factor < _MISTAKEN[1]:
            text = f"{found}: they look like {mistake}; check --energy-unit"
            return Verdict("energy", "suspicious", text)
    per_atom = np.concatenate(
        [batch.values["energy"] / batch.n_atoms for batch in samples]
    )
    typical = float(np.nanmedian(per_atom))
    if abs(typical) < _RELATIVE:
        text = f"{typical:.3g} eV per atom: energies relative to a reference"
        return Verdict("energy", "plausible", text)
    if 0 < ratio < 1:
        text = f"{found}: energies without core electrons, or another unit than eV"
        return Verdict("energy", "unclear", text)
    text = f"{found}: no electrons are bound like that; check --energy-unit"
    return Verdict("energy", "suspicious", text)


def _forces(samples: list[Molecules]) -> list[Verdict]:
    sizes = [np.linalg.norm(batch.values["forces"], axis=1) for batch in samples]
    size = np.concatenate(sizes)
    # Single atoms feel none.
    size = size[np.isfinite(size) & (size > 0)]
    if not len(size):
        return []
    median = float(np.median(size))
    found = f"median {median:.3g} eV/Å"
    if median > _FORCES[1]:
        text = f"{found}: more than sampled geometries have; check --force-unit"
        magnitude = Verdict("forces", "suspicious", text)
    elif median < _FORCES[0]:
        text = f"{found}: relaxed geometries, or a unit like hartree/bohr"
        magnitude = Verdict("forces", "unclear", text)
    else:
        magnitude = Verdict("forces", "plausible", found)
    wrong = _wrong_bonds(samples) if median > _RELAXED else None
    if wrong is not None:
        magnitude = Verdict("forces", "suspicious", f"{found}: {wrong}")
    changes = find_changes(samples)
    work = _work(changes.energies, changes.work)
    stiff = _stiff(changes.stiffness) if median > _RELAXED else None
    if stiff is not None and stiff.verdict == "plausible":
        # Blind to signs, so that it says less than the others.
        stiff = None if wrong is not None or work is not None else stiff
    return [verdict for verdict in (magnitude, work, stiff) if verdict is not None]


def _wrong_bonds(samples: list[Molecules]) -> str | None:
    """What is wrong with forces along bonds, None where nothing is."""
    bonds = bond_forces(samples)
    if bonds is None or abs(bonds.correlation) < _CLEAR:
        return None
    if bonds.correlation > 0:
        return (
            "stretched bonds are pushed further apart, so that the forces look like "
            "gradients: the sign is wrong"
        )
    if _BOND_STIFFNESS[0] < bonds.stiffness < _BOND_STIFFNESS[1]:
        return None
    side = "softer" if bonds.stiffness < _BOND_STIFFNESS[0] else "stiffer"
    return (
        f"bonds answer with {bonds.stiffness:.3g} eV/Å², {side} than any are: check "
        "--force-unit"
    )


def _work(energies: Array, work: Array) -> Verdict | None:
    """Do energies change by what the forces do along the way?"""
    if len(work) < _MIN_PAIRS:
        return None
    clear = np.abs(work) >= np.median(np.abs(work))  # small ones say little
    clear &= work != 0
    if clear.sum() < _MIN_PAIRS // 2:
        return None
    slope = float(np.median(energies[clear] / work[clear]))
    text = (
        f"between {len(work)} pairs of similar geometries energies change by "
        f"{slope:.3g} of what forces and positions say"
    )
    if _SLOPE[0] < slope < _SLOPE[1]:
        return Verdict("energy and forces", "plausible", text)
    reasons = [
        mistake
        for mistake, factor in _MISMATCHES.items()
        if _SLOPE[0] < slope / factor < _SLOPE[1]
    ]
    guess = "; or ".join(reasons) or "check units, order of atoms, and levels of theory"
    return Verdict("energy and forces", "suspicious", f"{text}: {guess}")


def _stiff(stiffness: Array) -> Verdict | None:
    """Are energies and forces of one molecule as large as one force constant says?"""
    if not len(stiffness):
        return None
    typical = float(np.median(stiffness))
    text = f"energies and forces belong to a mean force constant of {typical:.3g} eV/Å²"
    if _STIFFNESS[0] < typical < _STIFFNESS[1]:
        return Verdict("energy and forces", "plausible", text)
    side = "stiffer" if typical > 1 else "softer"
    text += f", {side} than molecules are: check --energy-unit and --force-unit"
    return Verdict("energy and forces", "suspicious", text)


def _length(samples: list[Molecules]) -> Verdict | None:
    """Nearest neighbours against the sums of covalent radii (those of ASE)."""
    ratios: list[float] = []
    step = sum(len(batch.rows) for batch in samples) // _MAX_BONDED + 1
    for batch in samples:
        for index in range(0, len(batch.rows), step):
            ratio = _bond(batch, index)
            if ratio is not None:
                ratios.append(ratio)
    if not ratios:
        return None
    typical = float(np.median(ratios))
    text = f"nearest neighbours are at {typical:.2f} times the sum of covalent radii"
    if _BONDS[0] < typical < _BONDS[1]:
        return Verdict("length", "plausible", text)
    if typical < _BONDS[0]:
        return Verdict(
            "length", "suspicious", f"{text}: check --length-unit, Å read as bohr?"
        )
    if 0.8 < typical * BOHR < 1.15:
        return Verdict("length", "suspicious", f"{text}: bohr read as Å?")
    return Verdict("length", "unclear", f"{text}: atoms that are not bonded?")


def _bond(batch: Molecules, index: int) -> float | None:
    """Nearest neighbours of one molecule: distance over radii, median of the atoms."""
    begin, size = (
        int(batch.first_atom[index]),
        min(int(batch.n_atoms[index]), _MAX_ATOMS),
    )
    numbers = batch.values["atomic_numbers"][begin : begin + size]
    bonding = ~np.isin(numbers, _NOBLE)
    if bonding.sum() < 2:
        return None
    points = batch.values["positions"][begin : begin + size][bonding].astype(np.float64)
    radii = covalent_radii[numbers[bonding]]
    vectors = points[:, None] - points[None]
    ratios = np.sqrt(np.einsum("ijk,ijk->ij", vectors, vectors))
    ratios /= radii[:, None] + radii
    np.fill_diagonal(ratios, np.inf)
    return float(np.median(ratios.min(axis=1)))
