"""Are the numbers of a dataset in the units they should be in? Verdicts with reasons.

No check can prove a unit; each compares a typical number with what physics allows and
calls it suspicious when it is off by about the factor between two units.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from ase.data import atomic_masses, covalent_radii
from numpy.typing import NDArray

from physnet_ase.molecules import Molecules
from physnet_ase.units import BOHR, HARTREE, KCAL_PER_MOL
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
_NEAR = 0.15  # Å; beyond this the trapezoidal rule fails: 0.3 Å already costs a quarter
_APART = 0.005  # Å; closer geometries differ in energy by rounding only
_PAIRS_PER_GROUP = 200
_MIN_FRAMES = 5  # of one molecule, to know the mean lengths of its bonds
_MIN_BONDS = 20  # bond lengths seen; fewer say nothing
_BONDED = 1.3  # times the covalent radii, in the first geometry
_MOST_FRAMES = 3000  # looked at, in runs of neighbours
_MOST_ALIKE = 500  # molecules whose bonds to hydrogen are compared
_COINCIDENT = 1e-3  # Å; atoms that close have no bond, and no division by zero
_MOVED = 0.003  # Å; bonds that vary less are relaxed or rigid
_STATE = ("total_charge", "spin_multiplicity")


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
    verdicts = [_energy(samples), *_forces(samples), _length(samples)]
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
    size = np.concatenate(
        [np.linalg.norm(batch.values["forces"], axis=1) for batch in samples]
    )
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
    bonds = _bond_forces(samples)
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
    step = sum(map(len, samples)) // _MAX_BONDED + 1
    found = [_bond(b, index) for b in samples for index in range(0, len(b), step)]
    ratios = [ratio for ratio in found if ratio is not None]
    if not ratios:
        return None
    typical = float(np.median(ratios))
    text = f"nearest neighbours are at {typical:.2f} times the sum of covalent radii"
    if _BONDS[0] < typical < _BONDS[1]:
        return Verdict("length", "plausible", text)
    if typical < _BONDS[0]:
        text = f"{text}: check --length-unit, Å read as bohr?"
        return Verdict("length", "suspicious", text)
    if 0.8 < typical * BOHR < 1.15:
        return Verdict("length", "suspicious", f"{text}: bohr read as Å?")
    return Verdict("length", "unclear", f"{text}: atoms that are not bonded?")


def _bond(batch: Molecules, index: int) -> float | None:
    """Nearest neighbours of one molecule: distance over radii, median of the atoms."""
    begin = int(batch.n_atoms[:index].sum())
    atoms = slice(begin, begin + min(int(batch.n_atoms[index]), _MAX_ATOMS))
    numbers = batch.values["atomic_numbers"][atoms]
    bonding = ~np.isin(numbers, _NOBLE)
    if bonding.sum() < 2:
        return None
    points = batch.values["positions"][atoms][bonding].astype(np.float64)
    radii = covalent_radii[numbers[bonding]]
    vectors = points[:, None] - points[None]
    ratios = np.sqrt(np.einsum("ijk,ijk->ij", vectors, vectors))
    ratios /= radii[:, None] + radii
    np.fill_diagonal(ratios, np.inf)
    return float(np.median(ratios.min(axis=1)))


class Changes(NamedTuple):
    """Pairs of similar geometries of one molecule in one state.

    Attributes:
        energies: [pairs] difference of the energies, eV.
        work: [pairs] the same by the forces along the way, eV.
        stiffness: [groups] mean squared force over energy spread, eV/Å².
    """

    energies: Array
    work: Array
    stiffness: Array


def find_changes(samples: list[Molecules]) -> Changes:
    """Compare geometries that follow each other in the data.

    ΔE = −∫F·dx, by the trapezoidal rule: exact for a harmonic potential however far
    the geometries are apart. One is turned onto the other first (W. Kabsch, Acta
    Cryst. A 32, 922 (1976)). Periodic structures are compared as they are.

    Stiffness is Σ⟨F²⟩ / sqrt(2 d Var E) with d the number of coordinates: the mean
    force constant, if the geometries are from a thermal ensemble of an oscillator.

    Args:
        samples: Molecules; energies and forces that are missing are left out.
    """
    groups: dict[bytes, list[tuple[Molecules, int]]] = {}
    for batch in samples:
        for index, key in _usable(batch):
            groups.setdefault(key, []).append((batch, index))
    energies, work, stiffness = [], [], []
    for members in groups.values():
        if len(members) < 2:
            continue
        some = members[: _PAIRS_PER_GROUP + 1]
        energy, positions, forces = _gather(some)
        if len(some) >= 10 and energy.std() > 1e-4:
            spread = np.sqrt(2 * forces[0].size) * energy.std()
            stiffness.append(float((forces**2).sum(axis=(1, 2)).mean() / spread))
        if some[0][0].values["pbc"][some[0][1]].any():
            turned, turned_forces = positions[1:], forces[1:]
        else:
            turned, turned_forces = _superpose(positions, forces)
        steps = turned - positions[:-1]
        distance = np.sqrt((steps**2).sum(axis=2).mean(axis=1))
        useful = (distance < _NEAR) & (distance > _APART)
        mean = 0.5 * (forces[:-1] + turned_forces)
        work.append(-(mean * steps).sum(axis=(1, 2))[useful])
        energies.append(np.diff(energy)[useful])
    none = [np.zeros(0)]
    return Changes(
        np.concatenate(energies or none),
        np.concatenate(work or none),
        np.array(stiffness),
    )


def _usable(batch: Molecules) -> Iterator[tuple[int, bytes]]:
    """Usable molecules, with what those of one group have in common."""
    values, first = batch.values, batch.first_atom
    finite = np.isfinite(values["forces"]).all(axis=1)
    usable = np.logical_and.reduceat(finite, first) & (batch.n_atoms > 1)
    usable &= np.isfinite(values["energy"])
    state = np.stack([values[name] for name in (*_STATE, "level")], axis=1)
    for index in np.flatnonzero(usable).tolist():
        atoms = slice(first[index], first[index] + batch.n_atoms[index])
        yield index, values["atomic_numbers"][atoms].tobytes() + state[index].tobytes()


def _gather(members: list[tuple[Molecules, int]]) -> tuple[Array, Array, Array]:
    """Energies [n], centred positions and forces [n, atoms, 3] of one group."""
    energies, positions, forces = [], [], []
    for batch, index in members:
        begin = batch.first_atom[index]
        atoms = slice(begin, begin + batch.n_atoms[index])
        energies.append(batch.values["energy"][index])
        positions.append(batch.values["positions"][atoms])
        forces.append(batch.values["forces"][atoms])
    points = np.array(positions, dtype=np.float64)
    if not members[0][0].values["pbc"][members[0][1]].any():
        points -= points.mean(axis=1, keepdims=True)
    return np.array(energies), points, np.array(forces, dtype=np.float64)


def _superpose(positions: Array, forces: Array) -> tuple[Array, Array]:
    """Each geometry after the first, turned onto the one before, with its forces."""
    onto, moved = positions[:-1], positions[1:]
    left, _, right = np.linalg.svd(np.einsum("pni,pnj->pij", moved, onto))
    # Without this a mirror image would count as a rotation.
    left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
    rotation = left @ right
    return moved @ rotation, forces[1:] @ rotation


class _BondForces(NamedTuple):
    """How forces answer when bonds are longer or shorter than on average."""

    correlation: (
        float  # of extensions with forces that open bonds; negative: pulled back
    )
    stiffness: float  # eV/Å², how much force per extension


def _bond_forces(samples: list[Molecules]) -> _BondForces | None:
    """Compare bond lengths with the forces along the bonds; None without enough bonds.

    Needs neither energies nor geometries that are close to each other. A bond is
    compared with the same bond in other geometries of its molecule; where there are
    too few of these, bonds to hydrogen with others of the same two elements.
    """
    frames: dict[bytes, list[Array]] = {}
    step = -(-sum(map(len, samples)) // _MOST_FRAMES)
    for batch in samples[::step]:
        values, starts = batch.values, batch.first_atom.tolist()
        columns = [values[name] for name in ("positions", "forces")]
        owned = np.concatenate([values["atomic_numbers"][:, None], *columns], axis=1)
        states = np.stack([values[name] for name in _STATE], axis=1)
        for first, size, state in zip(
            starts, batch.n_atoms.tolist(), states, strict=True
        ):
            molecule = owned[first : first + size].astype(np.float64)
            if 1 < size <= _MAX_ATOMS and np.isfinite(molecule).all():
                kind = molecule[:, 0].tobytes() + state.tobytes()
                known = frames.setdefault(kind, [])
                if len(known) < _PAIRS_PER_GROUP:
                    known.append(molecule)
    same: list[tuple[Array, Array]] = []
    for group in frames.values():
        if len(group) >= _MIN_FRAMES:
            _, lengths, forces = _bonds(np.array(group))
            same += zip(lengths.T, forces.T, strict=True)
    answer = _answer(same)
    if answer is not None:
        return answer
    alike: dict[int, list[tuple[Array, Array]]] = {}
    for group in list(frames.values())[:_MOST_ALIKE]:
        heavier, lengths, forces = _bonds(np.array(group))
        for number, length, force in zip(heavier, lengths.T, forces.T, strict=True):
            alike.setdefault(number, []).append((length, force))
    pooled = [
        (np.concatenate([b[0] for b in bonds]), np.concatenate([b[1] for b in bonds]))
        for number, bonds in alike.items()
        if number
    ]
    return _answer(pooled)


def _bonds(group: Array) -> tuple[list[int], Array, Array]:
    """Bonds of [frames, atoms, element + position + force]; 0 without hydrogen.

    Returns the element bound to hydrogen, [frames, bonds] lengths and opening forces.
    """
    numbers, points = group[0, :, 0].astype(int), group[..., 1:4]
    radii = covalent_radii[numbers]
    one, other = np.triu_indices(len(numbers), 1)
    reach = _BONDED * (radii[one] + radii[other])
    near = np.linalg.norm(points[0, one] - points[0, other], axis=1) < reach
    one, other = one[near], other[near]
    vectors = points[:, one] - points[:, other]
    lengths = np.linalg.norm(vectors, axis=2)
    # The light atom shows best what a bond does: relative acceleration, reduced mass.
    masses = atomic_masses[numbers]
    share = (masses[other] / (masses[one] + masses[other]))[:, None]
    forces = share * group[:, one, 4:] - (1 - share) * group[:, other, 4:]
    opening = (forces * vectors).sum(axis=2) / np.maximum(lengths, _COINCIDENT)
    pairs = zip(numbers[one].tolist(), numbers[other].tolist(), strict=True)
    heavier = [max(pair) if min(pair) == 1 < max(pair) else 0 for pair in pairs]
    return heavier, lengths, opening


def _answer(bonds: list[tuple[Array, Array]]) -> _BondForces | None:
    """Medians over the bonds that vary; None where there are too few."""
    correlations, stiffness, seen = [], [], 0
    for lengths, forces in bonds:
        extension, opening = lengths - lengths.mean(), forces - forces.mean()
        moved = extension.std() > _MOVED and opening.std() > 0
        if len(lengths) >= _MIN_FRAMES and moved:
            stiffness.append(-(extension @ opening) / (extension @ extension))
            correlations.append(np.corrcoef(extension, opening)[0, 1])
            seen += len(lengths)
    if seen < _MIN_BONDS:
        return None
    return _BondForces(float(np.median(correlations)), float(np.median(stiffness)))


def atom_energies(atomic_numbers: Array) -> Array:
    """Estimated energy of free atoms with all electrons, within 3 % beyond helium.

    E = −0.768745 Z^(7/3) + Z²/2 − 0.269900 Z^(5/3) hartree: Thomas and Fermi's term,
    Scott's correction and Schwinger's (B.-G. Englert, Semiclassical Theory of Atoms,
    1988). Molecules differ from their atoms by a thousandth of that.

    Args:
        atomic_numbers: [atoms].

    Returns:
        [atoms] eV, negative.
    """
    z = np.arange(int(np.max(atomic_numbers, initial=0)) + 1, dtype=np.float64)
    table = -0.768745 * z ** (7 / 3) + z**2 / 2 - 0.269900 * z ** (5 / 3)
    return HARTREE * table[atomic_numbers]


def molecule_energies(atomic_numbers: Array, starts: Array) -> Array:
    """Sum of ``atom_energies`` over each molecule. [molecules] eV."""
    return np.add.reduceat(atom_energies(atomic_numbers), starts)
