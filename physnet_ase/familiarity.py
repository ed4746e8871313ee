"""What a model has seen: how far an atom's surroundings are from its training data.

A model answers for any molecule of its elements, and nothing in the answer shows
whether it knows the chemistry. The surroundings of an atom are described by which
elements stand at which distances, and compared with those of the training set. The
score is 1 where one of two hundred atoms in other geometries of known molecules would
be as far away; above it, a number is an extrapolation. So it is where the bonds of an
atom and of its neighbours were never seen together.
"""

import base64
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
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
_QUANTILE = 0.995
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
    training: Iterable[Molecules], validation: Iterable[Molecules]
) -> Environments:
    """Surroundings of training molecules, with thresholds from validation ones.

    Args:
        training: Molecules with states.
        validation: Others, whose surroundings the model is said to know.
    """
    batches, others = list(training), list(validation)
    elements = sorted(
        {int(z) for b in batches for z in np.unique(b.values["atomic_numbers"])}
    )
    described = _by_element(batches, elements)
    checked = _by_element(others, elements)
    found = {}
    for number in elements:
        numbers, states = described[number]
        chosen = _spread(numbers).astype(np.float16)  # as they are stored and compared
        threshold = _LEAST_THRESHOLD
        if number in checked and len(checked[number][0]):
            far = _nearest(checked[number][0], chosen.astype(np.float64))
            threshold = max(threshold, float(np.quantile(far, _QUANTILE)))
        found[chemical_symbols[number]] = ElementEnvironments(
            # Upwards: all states of a geometry may lie at the quantile itself.
            threshold=math.ceil(1e4 * threshold) / 1e4,
            states=sorted(states),
            count=len(chosen),
            prototypes=base64.b64encode(chosen.tobytes()).decode(),
        )
    bonds = _stored_bonds(batches, others)
    return Environments(elements=elements, of_element=found, bonds=bonds)


def _stored_bonds(training: Sequence[Molecules], checked: Sequence[Molecules]) -> str:
    """Bonds of all training molecules, unless known ones show that some are missing."""
    known = np.unique(np.concatenate([bonds_of(b).ravel() for b in training]))
    unseen = total = 0
    for batch in checked:
        found = np.isin(bonds_of(batch), known).any(axis=0)
        unseen += int((np.bincount(batch.owner, ~found, len(batch)) > 0).sum())
        total += len(batch)
    if unseen > _MOST_UNSEEN * total:
        return ""
    return base64.b64encode(known.astype(np.uint32).tobytes()).decode()


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


def _by_element(
    batches: Sequence[Molecules], elements: Sequence[int]
) -> dict[int, tuple[Array, set[tuple[int, int]]]]:
    """Atomic number -> descriptors of its atoms, and the states it was seen in."""
    parts: dict[int, list[Array]] = {number: [] for number in elements}
    states: dict[int, set[tuple[int, int]]] = {number: set() for number in elements}
    for batch in batches:
        described = descriptors(batch, elements, REACH)
        numbers, owner = batch.values["atomic_numbers"], batch.owner
        charge, spin = (
            batch.values[name] for name in ("total_charge", "spin_multiplicity")
        )
        for number in elements:
            mine = numbers == number
            parts[number].append(described[mine])
            molecules = np.unique(owner[mine])
            states[number] |= set(
                zip(
                    charge[molecules].astype(int).tolist(),
                    spin[molecules].astype(int).tolist(),
                    strict=True,
                )
            )
    return {
        number: (np.concatenate(parts[number]), states[number])
        for number in elements
        if parts[number]
    }


def _spread(points: Array) -> Array:
    """A few points that cover the others: each the farthest from those before."""
    points = points[:: max(len(points) // _CANDIDATES, 1)]
    chosen = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < min(_PROTOTYPES, len(points)) and distance.max() > 1e-3:
        chosen.append(int(np.argmax(distance)))
        step = np.linalg.norm(points - points[chosen[-1]], axis=1)
        distance = np.minimum(distance, step)
    return points[chosen]


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
