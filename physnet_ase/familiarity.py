"""What a model has seen: how far an atom's surroundings are from its training data.

A model answers for any molecule of its elements, and nothing in the answer shows
whether it knows the chemistry. The surroundings of an atom are described by which
elements stand at which distances, and compared with those of the training set. The
score is 1 where one of five hundred atoms in other geometries of known molecules would
be as far away; above it, a number is an extrapolation. So it is where the bonds of an
atom and of its neighbours were never seen together.
"""

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple
from zlib import crc32

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from physnet_ase.bonds import BONDED, bond_lengths
from physnet_ase.groups import Groups
from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import Pairs, find_pairs, without_vacuum

Array = NDArray[np.float64]

REACH = 4.5
"""Å up to which surroundings are compared."""
_CENTRES = np.linspace(0.8, 4.0, 9)
_WIDTH = 0.4
_PROTOTYPES = 600
"""Surroundings kept for each element, as different from each other as possible."""
_CANDIDATES = 6_000
_QUANTILE = 0.998
_LEAST_THRESHOLD = 0.15
SHOWN_ATOMS = 6
EXPECTED = ((3.0, "of electronvolts"), (1.0, "above 0.3 eV"))
"""Score from which an error is expected, see ``benchmarks/familiarity.py``."""
_BONDS = (BONDED, 1.45)
"""Atoms nearer than so many times the sum of their covalent radii are bonded. Bonds
that are known at one of these reaches are known: they stretch."""
_UNSEEN_BONDS = 1.5
"""Least score of an atom whose bonds, up to the second, were never seen."""
_MOST_UNSEEN = 0.03
"""Where bonds of more known molecules seem unseen, the sample of bonds is not whole."""


class ElementEnvironments(BaseModel):
    """Surroundings of one element in the training data."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threshold: float
    states: list[tuple[int, int]]
    count: int
    prototypes: str  # base64 of float16 [count, elements × centres]


class Environments(BaseModel):
    """Surroundings of all elements in the training data; part of ``model.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    elements: list[int]
    of_element: dict[str, ElementEnvironments]
    bonds: str = ""  # base64 of uint32: hashes of the bonds around an atom; empty: any

    @cached_property
    def known_bonds(self) -> NDArray[np.uint32]:
        """Hashes of the bonds around atoms of the training data, ascending."""
        return np.frombuffer(base64.b64decode(self.bonds), np.uint32)

    @cached_property
    def prototypes(self) -> dict[int, Array]:
        """Atomic number -> [prototypes, numbers]."""
        found = {}
        for number in self.elements:
            entry = self.of_element[chemical_symbols[number]]
            raw = np.frombuffer(base64.b64decode(entry.prototypes), np.float16)
            found[number] = raw.reshape(entry.count, -1).astype(np.float64)
        return found

    def scores(self, molecules: Molecules, cutoff: float) -> Array:
        """How unfamiliar each atom's surroundings are, [atoms]; above 1 they are.

        Infinite where the element was never seen in the molecule's state.
        """
        molecules = without_vacuum(molecules, cutoff)
        described = descriptors(molecules, self.elements)
        numbers = molecules.values["atomic_numbers"]
        charge, spin = (
            np.repeat(molecules.values[name], molecules.n_atoms)
            for name in ("total_charge", "spin_multiplicity")
        )
        scores = np.full(len(numbers), np.inf)
        for number in self.elements:
            entry = self.of_element[chemical_symbols[number]]
            mine = np.flatnonzero(numbers == number)
            if not len(mine):
                continue
            known = np.isin(
                charge[mine] * 1000 + spin[mine],
                [q * 1000 + m for q, m in entry.states],
            )
            nearest = _nearest(described[mine], self.prototypes[number])
            scores[mine] = np.where(known, nearest / entry.threshold, np.inf)
        if self.bonds:
            bonds = bonds_of(molecules)
            found = np.isin(bonds, self.known_bonds).any(axis=0)
            scores[~found] = np.maximum(scores[~found], _UNSEEN_BONDS)
        return scores


@dataclass(frozen=True)
class Familiarity:
    """How well a model knows a structure.

    Attributes:
        score: The largest of the atoms; above 1 the structure is unfamiliar.
        atom_scores: [atoms] the same for each atom.
        numbers: [atoms] atomic numbers.
        bonded: [atoms] the atoms that each is bonded to; empty where all are known.
    """

    score: float
    atom_scores: Array
    numbers: NDArray[np.int32]
    bonded: tuple[tuple[int, ...], ...] = ()

    @property
    def unfamiliar(self) -> bool:
        """Whether the model has seen nothing like it."""
        return self.score > 1.0

    @property
    def message(self) -> str:
        """What to know about the unfamiliar atoms; empty where all are known."""
        strange = np.flatnonzero(self.atom_scores > 1.0)
        if not len(strange):
            return ""
        worst = strange[np.argsort(-self.atom_scores[strange], kind="stable")]
        alike: dict[str, list[str]] = {}
        for i in worst[:SHOWN_ATOMS].tolist():
            bonds = self._words(i)
            symbol = chemical_symbols[self.numbers[i]]
            alike.setdefault(bonds, []).append(f"{symbol}{i}")
        named = "; ".join(
            f"{', '.join(atoms)}{f' ({bonds})' if bonds else ''}"
            for bonds, atoms in alike.items()
        )
        more = (
            f" and {len(worst) - SHOWN_ATOMS} more" if len(worst) > SHOWN_ATOMS else ""
        )
        error = next(text for least, text in EXPECTED if self.score > least)
        return (
            f"the surroundings of {named}{more} are unlike those the model was trained "
            f"on (familiarity score {self.score:.1f}, above 1): expect errors {error} "
            "in energies between states, and train on molecules like it"
        )

    def _words(self, atom: int) -> str:
        """What an atom is, such as "alkene carbon, bonded to C, H, H"."""
        if not self.bonded:
            return ""
        numbers = self.numbers.tolist()
        near = sorted(chemical_symbols[numbers[j]] for j in self.bonded[atom])
        group = Groups(numbers, self.bonded).name(atom)
        bonds = f"bonded to {', '.join(near)}" if near else ""
        return ", ".join(filter(None, [group, bonds]))


def descriptors(
    molecules: Molecules, elements: Sequence[int], cutoff: float | None = None
) -> Array:
    """Which elements stand at which distances around each atom, [atoms, numbers].

    Args:
        molecules: Structures.
        elements: Atomic numbers that count as neighbours.
        cutoff: Radius, in Å, by which a molecule alone in a box is recognised.
    """
    if cutoff is not None:
        molecules = without_vacuum(molecules, cutoff)
    pairs: Pairs = find_pairs(molecules, REACH)
    numbers = molecules.values["atomic_numbers"]
    distances = np.linalg.norm(pairs.vectors(molecules.values["positions"]), axis=1)
    fade = 0.5 * (1.0 + np.cos(np.pi * np.minimum(distances / REACH, 1.0)))
    places = np.full(120, len(elements))
    places[list(elements)] = np.arange(len(elements))
    width = len(_CENTRES)
    total = np.zeros((len(numbers) * (len(elements) + 1), width))
    rows = pairs.receivers.astype(np.int64) * (len(elements) + 1)
    rows += places[numbers[pairs.senders]]
    for index, centre in enumerate(_CENTRES):
        waves = fade * np.exp(-0.5 * ((distances - centre) / _WIDTH) ** 2)
        total[:, index] = np.bincount(rows, waves, minlength=len(total))
    return total.reshape(len(numbers), -1)[:, : len(elements) * width]


def environments_of(
    training: Sequence[Molecules],
    known: Sequence[NDArray[np.bool_]],
    like: Environments | None = None,
) -> Environments:
    """Surroundings of training molecules, with thresholds from these, too.

    Each part in turn is left out and compared with the others: a geometry that is not
    among them, of a molecule that they know, is what a model answers for reliably.

    Args:
        training: Molecules with states in a few parts; all states of a geometry in one.
        known: For each part, which of its molecules the others hold in other
            geometries.
        like: Whose thresholds hold for elements of which too few atoms can be left out.
    """
    elements = sorted(
        {int(z) for b in training for z in np.unique(b.values["atomic_numbers"])}
    )
    described = _by_element(training, elements)
    chosen, far = {}, {}
    for number in elements:
        numbers, part, molecule, _ = described[number]
        # as they are stored and compared
        chosen[number] = _spread(numbers).astype(np.float16)
        apart = [np.zeros(0)]
        for index, judged in enumerate(known):
            own = part == index
            left, others = numbers[own][judged[molecule[own]]], numbers[~own]
            if len(left) and len(others):
                prototypes = _spread(others).astype(np.float16).astype(np.float64)
                apart.append(_nearest(left, prototypes))
        far[number] = np.concatenate(apart)
    thresholds = _thresholds(far, like)
    found = {
        chemical_symbols[number]: ElementEnvironments(
            threshold=thresholds[number],
            states=sorted(described[number].states),
            count=len(chosen[number]),
            prototypes=base64.b64encode(chosen[number].tobytes()).decode(),
        )
        for number in elements
    }
    bonds = _stored_bonds(training, known)
    return Environments(elements=elements, of_element=found, bonds=bonds)


def _thresholds(far: dict[int, Array], like: Environments | None) -> dict[int, float]:
    """Distance of each element that one of five hundred atoms exceeds.

    An element of fewer atoms says little about its rarest; it is not held to less than
    the strictest of the others.

    Args:
        far: Atomic number -> how far its atoms are from others of known molecules.
        like: Thresholds for elements of few atoms.
    """
    many = {z for z, d in far.items() if len(d) * (1.0 - _QUANTILE) >= 1.0}
    own = {
        z: float(np.quantile(d, _QUANTILE)) if len(d) else 0.0 for z, d in far.items()
    }
    strictest = min((own[z] for z in many), default=0.0)
    found = {}
    for z, distance in own.items():
        least = _LEAST_THRESHOLD
        if z not in many:
            other = like and like.of_element.get(chemical_symbols[z])
            least = max(least, other.threshold if other else strictest)
        # Upwards: all states of a geometry may lie at the quantile itself.
        found[z] = math.ceil(1e4 * max(distance, least)) / 1e4
    return found


def _stored_bonds(
    training: Sequence[Molecules], known: Sequence[NDArray[np.bool_]]
) -> str:
    """Bonds of all training molecules, unless known ones show that some are missing."""
    bonds = [bonds_of(part) for part in training]
    unseen = total = 0
    for index, judged in enumerate(known):
        others = [b.ravel() for i, b in enumerate(bonds) if i != index]
        if not others or not judged.any():
            continue
        part = training[index]
        found = np.isin(bonds[index], np.concatenate(others)).any(axis=0)
        strange = np.bincount(part.owner, ~found, len(part)) > 0
        unseen += int(strange[judged].sum())
        total += int(judged.sum())
    if unseen > _MOST_UNSEEN * total:
        return ""
    stored = np.unique(np.concatenate([b.ravel() for b in bonds]))
    return base64.b64encode(stored.astype(np.uint32).tobytes()).decode()


def bonds_of(molecules: Molecules) -> NDArray[np.uint32]:
    """What each atom is bonded to, and that in turn, as a hash. [reaches, atoms]."""
    numbers = molecules.values["atomic_numbers"].tolist()
    rows = []
    for near in _neighbours(molecules, _BONDS):
        own = [
            f"{number}:{sorted(numbers[j] for j in atoms)}"
            for number, atoms in zip(numbers, near, strict=True)
        ]
        rows.append(
            [
                crc32(f"{mine}{sorted(own[j] for j in atoms)}".encode())
                for mine, atoms in zip(own, near, strict=True)
            ]
        )
    return np.array(rows, np.uint32).reshape(len(_BONDS), len(numbers))


class _Described(NamedTuple):
    """Atoms of one element."""

    numbers: Array  # [atoms, numbers] what stands around each
    part: NDArray[np.int64]  # [atoms] where it is
    molecule: NDArray[np.int64]  # [atoms] and of which molecule of that part
    states: set[tuple[int, int]]  # in which the element was seen


def _by_element(
    batches: Sequence[Molecules], elements: Sequence[int]
) -> dict[int, _Described]:
    """Atomic number -> its atoms."""
    numbers = np.concatenate([b.values["atomic_numbers"] for b in batches])
    described = np.concatenate([descriptors(b, elements, REACH) for b in batches])
    part = np.repeat(np.arange(len(batches)), [b.num_atoms for b in batches])
    molecule = np.concatenate([b.owner for b in batches]).astype(np.int64)
    charge, spin = (
        np.concatenate([b.values[name][b.owner] for b in batches]).astype(int)
        for name in ("total_charge", "spin_multiplicity")
    )
    found = {}
    for number in elements:
        mine = numbers == number
        states = np.unique(np.stack([charge[mine], spin[mine]], axis=1), axis=0)
        found[number] = _Described(
            described[mine],
            part[mine],
            molecule[mine],
            {(q, m) for q, m in states.tolist()},
        )
    return found


def _spread(points: Array) -> Array:
    """A few points that cover the others: each the farthest from those before."""
    points = points[:: max(len(points) // _CANDIDATES, 1)]
    squares = (points**2).sum(axis=1)
    chosen = [0]
    distance = np.full(len(points), np.inf)
    while True:
        last = chosen[-1]
        step = squares - 2.0 * points @ points[last] + squares[last]
        distance = np.minimum(distance, step)
        farthest = int(np.argmax(distance))
        if len(chosen) >= min(_PROTOTYPES, len(points)) or distance[farthest] <= 1e-6:
            return points[chosen]
        chosen.append(farthest)


def _nearest(points: Array, prototypes: Array) -> Array:
    """Distance of each point to the nearest prototype."""
    if not len(points):
        return np.zeros(0)
    squares = (points**2).sum(axis=1)[:, None] + (prototypes**2).sum(axis=1)
    squares -= 2.0 * points @ prototypes.T
    nearest: Array = np.sqrt(np.maximum(squares.min(axis=1), 0.0))
    return nearest


def familiarity_of(
    environments: Environments, molecules: Molecules, cutoff: float
) -> list[Familiarity]:
    """One verdict per molecule."""
    scores = environments.scores(molecules, cutoff)
    numbers = molecules.values["atomic_numbers"]
    ends = np.cumsum(molecules.n_atoms)[:-1]
    bonded: list[list[int]] = []
    if (scores > 1.0).any():
        bonded = next(_neighbours(molecules, _BONDS))
    return [
        Familiarity(
            float(own.max()),
            own,
            atoms,
            tuple(tuple(j - first for j in near) for near in bonded[first : first + n]),
        )
        for own, atoms, first, n in zip(
            np.split(scores, ends),
            np.split(numbers, ends),
            molecules.first_atom.tolist(),
            molecules.n_atoms.tolist(),
            strict=True,
        )
    ]


def _neighbours(
    molecules: Molecules, reaches: Sequence[float]
) -> Iterator[list[list[int]]]:
    """The atoms that each is bonded to, at each reach."""
    pairs, lengths, _ = bond_lengths(molecules, max(reaches))
    for reach in reaches:
        near = lengths < reach
        found: list[list[int]] = [[] for _ in range(molecules.num_atoms)]
        for to, atom in zip(
            pairs.receivers[near].tolist(), pairs.senders[near].tolist(), strict=True
        ):
            found[to].append(atom)
        yield found
