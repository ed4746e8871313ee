"""Which labels there are, in a fixed order: structures, geometries, states."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from physnet_ase.bonds import bonds
from physnet_ase.commands.smiles import (
    SMILES_PREFIX,
    numbers_and_state,
    parse_smiles,
    rdkit,
)
from physnet_ase.commands.structure_files import read_frames, read_structure
from physnet_ase.molecules import check_structure
from physnet_ase.state import ElectronicState, is_possible, resolve_state
from physnet_training.label.calculators import Method
from physnet_training.label.sampling import Kind, Sampling

Array = NDArray[Any]
Relative = Literal["radicals", "protonated", "deprotonated"]
"""What one hydrogen more or less makes of a molecule."""

_ELEMENT_ORDER = {8: 0, 7: 1, 16: 2}


def read_smiles(path: Path) -> list[str]:
    """SMILES of a list: the first word of each line, or JSON of ``{"smiles": …}``.

    Raises:
        ValueError: There are none.
    """
    text = path.read_text("utf-8")
    if path.suffix == ".json":
        try:
            entries = json.loads(text)
            smiles = [e if isinstance(e, str) else e["smiles"] for e in entries]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f'{path} must be a JSON list of SMILES or of {{"smiles": …}} ({error})'
            ) from error
    else:
        smiles = [line.split()[0] for line in text.splitlines() if line.strip()]
    if not smiles:
        raise ValueError(f"{path} holds no SMILES")
    return smiles


def relatives(
    smiles: str, kinds: Sequence[Relative], *, most: int | None = None
) -> Iterator[tuple[Relative, str]]:
    """Radicals and closed-shell ions that one hydrogen more or less makes.

    Equivalent atoms count once; hetero atoms come first. Protons go to uncharged N, O
    and S; they leave O, N and S, alkynes, and carbon next to a multiple bond to N, O or
    S.

    Args:
        smiles: A neutral molecule with paired electrons; others have no relatives.
        kinds: Which.
        most: Most of each kind; None: all.

    Yields:
        Kind and canonical SMILES.

    Raises:
        ValueError: A kind is unknown.
    """
    unknown = sorted(set(kinds) - {*get_args(Relative)})
    if unknown:
        raise ValueError(
            f"--relatives must be of {', '.join(get_args(Relative))}, got {unknown[0]}"
        )
    if numbers_and_state(smiles)[1] != ElectronicState(0, 1):
        return
    molecule = parse_smiles(smiles)
    changes: dict[Relative, Callable[[Any], str | None]] = {
        "radicals": lambda atom: _changed(atom, hydrogens=-1, unpaired=1),
        "protonated": lambda atom: _changed(atom, hydrogens=1, charge=1),
        "deprotonated": lambda atom: (
            _changed(atom, hydrogens=-1, charge=-1) if _is_acidic(atom) else None
        ),
    }
    sites = _distinct_atoms(molecule)
    for kind in kinds:
        made = dict.fromkeys(filter(None, map(changes[kind], sites)))
        for name in list(made)[:most]:
            yield kind, name


def check_bonds(smiles: str, atoms: Atoms) -> None:
    """Raise where a geometry has other bonds than its SMILES, as after a reaction.

    Raises:
        ValueError: The message names one bond that was made or broken.
    """
    molecule = rdkit().AddHs(parse_smiles(smiles))
    expected = {
        tuple(sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())))
        for bond in molecule.GetBonds()
    }
    for pair in sorted(expected ^ bonds(atoms)):
        first, second = (f"{atoms.symbols[index]}{index}" for index in pair)
        change = "broke" if pair in expected else "formed"
        raise ValueError(
            f"the bond {first}-{second} {change} on relaxing: this is no longer "
            f"{smiles}"
        )


def _distinct_atoms(molecule: Any) -> list[Any]:
    """One of each set of equivalent atoms, O, N and S before the others."""
    ranks = list(rdkit().CanonicalRankAtoms(molecule, breakTies=False))
    first = {rank: index for index, rank in reversed(list(enumerate(ranks)))}
    atoms = [molecule.GetAtomWithIdx(index) for index in sorted(first.values())]
    return sorted(atoms, key=lambda a: _ELEMENT_ORDER.get(a.GetAtomicNum(), 9))


def _changed(
    atom: Any, *, hydrogens: int, charge: int = 0, unpaired: int = 0
) -> str | None:
    """Canonical SMILES after a change at one atom, or None where it cannot be."""
    chem = rdkit()
    hetero = atom.GetAtomicNum() in _ELEMENT_ORDER
    if hydrogens > 0 and (not hetero or atom.GetFormalCharge()):
        return None
    if atom.GetTotalNumHs() + hydrogens < 0:
        return None
    changed = chem.RWMol(atom.GetOwningMol())
    chem.Kekulize(changed, clearAromaticFlags=True)  # the ring may lose its aromaticity
    site = changed.GetAtomWithIdx(atom.GetIdx())
    site.SetNumExplicitHs(atom.GetTotalNumHs() + hydrogens)
    site.SetNoImplicit(True)
    site.SetFormalCharge(atom.GetFormalCharge() + charge)
    site.SetNumRadicalElectrons(unpaired)
    again = chem.MolFromSmiles(chem.MolToSmiles(changed))
    return None if again is None else str(chem.MolToSmiles(again))


def _is_acidic(atom: Any) -> bool:
    if not atom.GetTotalNumHs():
        return False
    if atom.GetAtomicNum() in _ELEMENT_ORDER or str(atom.GetHybridization()) == "SP":
        return True
    return any(
        bond.GetBondTypeAsDouble() >= 2
        and bond.GetOtherAtom(neighbor).GetAtomicNum() in _ELEMENT_ORDER
        for neighbor in atom.GetNeighbors()
        for bond in neighbor.GetBonds()
    )


_CLOSEST = 0.1  # Å


@dataclass(frozen=True)
class Structure:
    """Something to label.

    Attributes:
        name: The group by which the molecule can be held out.
        source: Where it was read, for messages.
        numbers: [atoms] atomic numbers.
        atoms: Elements, positions and cell; neither constraints nor a calculator. None:
            the geometry is made from the SMILES when it is needed.
        smiles: Its bonds, where they are known.
        state: The state that it is labelled in, whatever is asked for.
        copy: Counts structures that are the same in all of this.
    """

    name: str
    source: str
    numbers: Array
    atoms: Atoms | None = None
    smiles: str = ""
    state: ElectronicState | None = None
    copy: int = 0

    @property
    def key(self) -> str:
        """Tells it from all others; depends on nothing but its own content."""
        digest = hashlib.sha256(f"{self.name}/{self.smiles}".encode())
        if self.atoms is not None:
            digest.update(str(self.atoms.pbc.tolist()).encode())
            for array in (self.numbers, self.atoms.positions, self.atoms.cell.array):
                digest.update(np.ascontiguousarray(array).tobytes())
        copy = f"#{self.copy}" if self.copy else ""
        return f"{self.name}~{digest.hexdigest()[:10]}{copy}"

    @property
    def is_atom(self) -> bool:
        """Whether it has one geometry only."""
        periodic = self.atoms is not None and self.atoms.pbc.any()
        return len(self.numbers) == 1 and not periodic

    def __str__(self) -> str:
        electrons = int(self.numbers.sum())
        return f"{self.source} ({self.name}, {electrons} electrons when neutral)"


def read_structures(
    sources: Sequence[str],
    *,
    own_states: bool = True,
    kinds: Sequence[Relative] = (),
    most: int | None = None,
) -> list[Structure]:
    """Every frame of files, the frames that ``FILE@3`` picks, molecules by name.

    A list of SMILES (``.smi``, ``.json``) and ``smiles:CCO`` give molecules whose
    geometry is made when it is needed. Ions among them are labelled in their own state
    only, each species once.

    Args:
        sources: Anything ASE reads, a name in ``ase.build.molecule``, or SMILES.
        own_states: Read the state of each, too.
        kinds: Add these radicals and ions of molecules given by SMILES.
        most: Most of each kind per molecule; None: all.

    Raises:
        ValueError: A file is missing or damaged, or a structure is unusable.
        ImportError: There are SMILES, and RDKit is not installed.
    """
    structures: list[Structure] = []
    species: set[str] = set()
    for source in sources:
        if _is_smiles(source):
            for structure in _from_smiles(source, own_states, kinds, most):
                if structure.smiles not in species:
                    species.add(structure.smiles)
                    structures.append(structure)
        else:
            structures += _from_file_or_name(source, own_states)
    counts: Counter[str] = Counter()
    distinct = []
    for structure in structures:
        key = f"{structure.key}{structure.state}"
        distinct.append(replace(structure, copy=counts[key]))
        counts[key] += 1
    return distinct


def check_geometry(atoms: Atoms) -> None:
    """Raise where no dataset could hold this geometry.

    Raises:
        ValueError: The message names atom and value.
    """
    check_structure(atoms)
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    distances[np.diag_indices(len(atoms))] = np.inf
    if distances.min() < _CLOSEST:
        first, second = np.unravel_index(distances.argmin(), distances.shape)
        raise ValueError(
            f"atom {first} is only {distances.min():.3f} Å away from atom {second}; "
            f"atoms must be at least {_CLOSEST} Å apart"
        )


def _is_smiles(source: str) -> bool:
    if source.startswith(SMILES_PREFIX):
        return True
    return source.endswith((".smi", ".json")) and Path(source).exists()


def _from_smiles(
    source: str, own_states: bool, kinds: Sequence[Relative], most: int | None
) -> Iterator[Structure]:
    prefixed = source.startswith(SMILES_PREFIX)
    names = [source.removeprefix(SMILES_PREFIX)] if prefixed else None
    for row, name in enumerate(names or read_smiles(Path(source))):
        try:
            yield smiles_structure(name, source, own_state=own_states)
            for _, relative in relatives(name, kinds, most=most):
                yield smiles_structure(relative, source, own_state=own_states)
        except ValueError as error:
            raise ValueError(f"{source}: molecule {row} (0-based): {error}") from error


def smiles_structure(
    smiles: str, source: str = "SMILES", *, own_state: bool = False
) -> Structure:
    """A structure whose geometry is made when it is needed.

    Args:
        smiles: Charge and unpaired electrons are read from it, too.
        source: For messages.
        own_state: Label it in its own state only; so are ions in any case.

    Raises:
        ValueError: It is no SMILES.
    """
    numbers, state = numbers_and_state(smiles)
    own = state if state.charge or own_state else None
    return Structure(smiles, source, numbers, smiles=smiles, state=own)


def _from_file_or_name(source: str, own_states: bool) -> Iterator[Structure]:
    known = Path(source).exists()
    if known:
        frames = read_frames(source, every=True)
    else:
        frames = [read_structure(source, None, None)]
    named = "" if known or "@" in source else source
    for row, atoms in enumerate(frames):
        try:
            check_geometry(atoms)
            state = resolve_state(atoms) if own_states else None
        except ValueError as error:
            raise ValueError(f"{source}: frame {row} (0-based): {error}") from error
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        name = named or str(atoms.info.get("name", "")) or atoms.get_chemical_formula()
        yield Structure(name, source, bare.numbers, bare, state=state)


@dataclass(frozen=True)
class Chain:
    """Geometries of one structure that are sampled on one surface.

    Attributes:
        structure: What is labelled.
        surface: The state that relaxes, vibrates or moves.
        states: The states in which every geometry is labelled.
        kind: How geometries are made.
        temperature: K, where it matters.
        samples: Number of geometries.
    """

    structure: Structure
    surface: ElectronicState
    states: tuple[ElectronicState, ...]
    kind: Kind = "none"
    temperature: float | None = None
    samples: int = 1

    @property
    def key(self) -> str:
        """Tells it from all others of any plan."""
        warmth = "" if self.temperature is None else f" {self.temperature:g} K"
        return f"{self.start_key} {self.kind}{warmth}"

    @property
    def start_key(self) -> str:
        """Its relaxed structure, which other chains may share."""
        return f"{self.structure.key} {_short(self.surface)}"

    def geometry_key(self, sample: int) -> str:
        """One of its geometries."""
        return f"{self.key} {sample}"

    def label_key(self, sample: int, state: ElectronicState) -> str:
        """One of its labels."""
        return f"{self.key} {sample} {_short(state)}"


@dataclass(frozen=True)
class Plan:
    """All labels of a run, and their order.

    Attributes:
        chains: In the order in which they are worked at and stored.
        method: What calculates labels.
        sampling: Which geometries.
        sampling_method: What relaxes, vibrates and moves; None: ``method``.
        skipped: State -> structures whose electron count forbids it.
        impossible: Structures for which no state is possible, in words.

    Raises:
        ValueError: The method lacks an element.
    """

    chains: Sequence[Chain]
    method: Method = field(default_factory=Method)
    sampling: Sampling = field(default_factory=Sampling)
    sampling_method: Method | None = None
    skipped: Counter[ElectronicState] = field(default_factory=Counter)
    impossible: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Ask the methods for all elements."""
        elements = {z for c in self.chains for z in c.structure.numbers.tolist()}
        self.method.check_elements(elements)
        self.surface_method.check_elements(elements)

    @classmethod
    def of(
        cls,
        structures: Sequence[Structure],
        method: Method | None = None,
        states: Sequence[ElectronicState] | None = None,
        sampling: Sampling | None = None,
        sampling_method: Method | None = None,
    ) -> "Plan":
        """The same sampling and states for all structures, as far as they can be.

        Args:
            structures: What is labelled.
            method: What calculates labels.
            states: The states asked for; None: each structure's own.
            sampling: Which geometries.
            sampling_method: What relaxes, vibrates and moves; None: ``method``.

        Raises:
            ValueError: Nothing can be labelled, or the method lacks an element.
        """
        method, sampling = method or Method(), sampling or Sampling()
        chains: list[Chain] = []
        skipped: Counter[ElectronicState] = Counter()
        impossible = []
        for structure in structures:
            wanted = (structure.state,) if structure.state else tuple(states or ())
            possible = tuple(s for s in wanted if is_possible(structure.numbers, s))
            skipped.update(state for state in wanted if state not in possible)
            if possible:
                chains += _chains(structure, possible, sampling)
            else:
                impossible.append(str(structure))
        if not chains:
            raise ValueError(
                f"none of the states {' '.join(map(_short, states or ()))} is possible "
                f"for any structure: {'; '.join(impossible[:5])}"
            )
        return cls(chains, method, sampling, sampling_method, skipped, impossible)

    @property
    def surface_method(self) -> Method:
        """What relaxes, vibrates and moves."""
        return self.sampling_method or self.method

    def labels(self) -> Iterator[tuple[str, Chain, int, ElectronicState]]:
        """Key, chain, sample and state of each label, in order."""
        for chain in self.chains:
            for sample, state in product(range(chain.samples), chain.states):
                yield chain.label_key(sample, state), chain, sample, state

    def settings(self) -> dict[str, Any]:
        """What must be equal for labels to belong together; JSON-serialisable.

        Structures, states and the number of samples may grow: labels have keys.
        """
        return {
            "method": self.method.settings(),
            "sampling method": self.surface_method.settings(),
            "sampling": self.sampling.model_dump(
                mode="json", exclude={"kind", "samples", "temperatures", "vertical"}
            ),
        }


def parse_states(text: str) -> tuple[ElectronicState, ...]:
    """States out of ``"0,1 1,2 -1,2"``: charge and multiplicity 2S+1.

    Raises:
        ValueError: It is no list of pairs of whole numbers, or one stands twice.
    """
    states = []
    for word in text.split():
        charge, _, multiplicity = word.partition(",")
        try:
            states.append(ElectronicState(int(charge), int(multiplicity)))
        except ValueError as error:
            raise ValueError(
                f"--states takes pairs of charge,multiplicity such as '0,1 1,2', got "
                f"{word!r}"
            ) from error
    repeated = [state for state, count in Counter(states).items() if count > 1]
    if repeated or not states:
        what = f"{repeated[0]} twice" if repeated else "none"
        raise ValueError(f"--states must name each state once, got {what}")
    return tuple(states)


def _chains(
    structure: Structure, states: tuple[ElectronicState, ...], sampling: Sampling
) -> Iterator[Chain]:
    single = structure.is_atom
    kind: Kind = "none" if single else sampling.kind
    samples = 1 if kind == "none" else sampling.samples
    thermal = kind in ("modes", "dynamics")
    surfaces = [states] if sampling.shared or single else [(s,) for s in states]
    for temperature in sampling.temperatures if thermal else (None,):
        for mine in surfaces:
            yield Chain(structure, mine[0], mine, kind, temperature, samples)


def _short(state: ElectronicState) -> str:
    return f"{state.charge},{state.multiplicity}"
