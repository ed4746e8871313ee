"""What is to be labelled: structures, states and geometries, in a fixed order."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
from ase import Atoms

from physnet_ase.commands.structure_files import read_structure
from physnet_ase.molecules import Molecules
from physnet_ase.state import ElectronicState, is_possible, resolve_state
from physnet_training.audit.validate import check_molecules
from physnet_training.labelling.methods import Method
from physnet_training.labelling.sampling import Kind, Sampling


class Structure(NamedTuple):
    """One structure of the input.

    Attributes:
        atoms: Elements, positions and cell; neither constraints nor a calculator.
        name: The group by which the molecule can be held out.
        source: Where it was read, for messages.
        state: The state that it names itself, or the default; None where the states
            are asked for instead.
    """

    atoms: Atoms
    name: str
    source: str
    state: ElectronicState | None


class Chain(NamedTuple):
    """Geometries of one structure that are sampled on one surface.

    Attributes:
        structure: Its index.
        surface: The state that relaxes, vibrates or moves.
        states: The states in which every geometry is labelled.
        kind: How geometries are made; a single atom has only one.
        temperature: K, where it matters.
        samples: Number of geometries.
    """

    structure: int
    surface: ElectronicState
    states: tuple[ElectronicState, ...]
    kind: Kind
    temperature: float | None
    samples: int


class Job(NamedTuple):
    """One label: a geometry of a chain in one state. Sorts in the dataset's order."""

    chain: int
    sample: int
    state: int  # its place in the chain's states


@dataclass(frozen=True)
class Plan:
    """All labels of a run, and their order.

    Args:
        structures: What is labelled.
        method: What calculates labels.
        states: The states asked for; None: each structure's own.
        sampling: Which geometries.
        sampling_method: What relaxes, vibrates and moves; None: ``method``.

    Attributes:
        chains: In a fixed order.
        skipped: State -> structures whose electron count forbids it.
        impossible: Structures for which no state is possible, in words.

    Raises:
        ValueError: Nothing can be labelled, or the method lacks an element.
    """

    structures: Sequence[Structure]
    method: Method = field(default_factory=Method)
    states: tuple[ElectronicState, ...] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    sampling_method: Method | None = None
    chains: list[Chain] = field(init=False, default_factory=list)
    skipped: Counter[ElectronicState] = field(init=False, default_factory=Counter)
    impossible: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """List the chains."""
        for index, structure in enumerate(self.structures):
            wanted = self.states
            if wanted is None:
                wanted = (structure.state or resolve_state(structure.atoms),)
            numbers = structure.atoms.numbers
            states = tuple(state for state in wanted if is_possible(numbers, state))
            self.skipped.update(state for state in wanted if state not in states)
            if states:
                self._add_chains(index, states)
            else:
                self.impossible.append(
                    f"{structure.source} ({structure.name}, {int(numbers.sum())} "
                    "electrons when neutral)"
                )
        if not self.chains:
            listed = " ".join(f"{s.charge},{s.multiplicity}" for s in self.states or ())
            raise ValueError(
                f"none of the states {listed} is possible for any structure: "
                f"{'; '.join(self.impossible[:5])}"
            )
        for method in (self.method, self.surface_method):
            method.check_elements(
                number for s in self.structures for number in s.atoms.numbers.tolist()
            )

    @property
    def surface_method(self) -> Method:
        """What relaxes, vibrates and moves."""
        return self.sampling_method or self.method

    def _add_chains(self, index: int, states: tuple[ElectronicState, ...]) -> None:
        sampling, atoms = self.sampling, self.structures[index].atoms
        single = len(atoms) == 1 and not atoms.pbc.any()
        kind: Kind = "none" if single else sampling.kind
        samples = 1 if kind == "none" else sampling.samples
        thermal = sampling.thermal() and not single
        temperatures = sampling.temperatures if thermal else (None,)
        sets = [states] if sampling.shared or single else [(s,) for s in states]
        for temperature in temperatures:
            for mine in sets:
                chain = Chain(index, mine[0], mine, kind, temperature, samples)
                self.chains.append(chain)

    def share(self, process_index: int, process_count: int) -> list[tuple[int, range]]:
        """This process' part: chain and samples; the parts of all are the whole.

        The samples of a trajectory follow from each other and stay together.

        Raises:
            ValueError: The index does not count from 0 to process_count - 1.
        """
        if not 0 <= process_index < process_count:
            raise ValueError(
                f"--process-index must be 0 to {process_count - 1} "
                f"(--process-count {process_count}), got {process_index}"
            )
        units: list[tuple[int, range]] = []
        for index, chain in enumerate(self.chains):
            if chain.kind == "dynamics":
                units.append((index, range(chain.samples)))
            else:
                units += [(index, range(k, k + 1)) for k in range(chain.samples)]
        return units[process_index::process_count]

    def jobs(self, share: Sequence[tuple[int, range]]) -> list[Job]:
        """All labels of a share, in the order of the dataset."""
        return [
            Job(chain, sample, state)
            for chain, samples in share
            for sample in samples
            for state in range(len(self.chains[chain].states))
        ]

    def state(self, job: Job) -> ElectronicState:
        """The state of a label."""
        return self.chains[job.chain].states[job.state]

    def settings(self) -> dict[str, Any]:
        """What must be equal for labels to belong together; JSON-serialisable."""
        digest = hashlib.sha256()
        for structure in self.structures:
            atoms = structure.atoms
            text = f"{structure.name}/{structure.state}/{atoms.pbc.tolist()}/"
            digest.update(text.encode())
            for array in (atoms.numbers, atoms.positions, atoms.cell.array):
                digest.update(np.ascontiguousarray(array).tobytes())
        methods = (self.method, self.surface_method)
        method, surface = (_without(m.provenance(), "versions") for m in methods)
        states = self.states and [[s.charge, s.multiplicity] for s in self.states]
        return {
            "structures": f"{len(self.structures)} structures, {digest.hexdigest()}",
            "states": states and list(states),
            "method": method,
            "sampling method": surface,
            "sampling": self.sampling.model_dump(mode="json"),
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


def read_structures(
    sources: Sequence[str], *, own_states: bool = True
) -> list[Structure]:
    """Every frame of files, the frames that ``FILE@3`` picks, or molecules by name.

    Args:
        sources: Anything ASE reads, or a name in ``ase.build.molecule``.
        own_states: Read the state of each, too.

    Raises:
        ValueError: A file is missing or damaged, or a structure is unusable.
    """
    structures = []
    for source in sources:
        path = Path(source)
        known = path.exists()
        frames = _frames(source) if known else [read_structure(source, None, None)]
        named = "" if known or "@" in source else source
        for row, atoms in enumerate(frames):
            try:
                _check(atoms, row)
                state = resolve_state(atoms) if own_states else None
                structures.append(_structure(atoms, named, source, state))
            except ValueError as error:
                raise ValueError(f"{source}: frame {row} (0-based): {error}") from error
    return structures


def _frames(source: str) -> list[Atoms]:
    try:
        frames = ase.io.read(source, index=":")
    # ASE's readers raise anything at all on a damaged file.
    except Exception as error:
        raise ValueError(
            f"{source}: ASE cannot read this file ({type(error).__name__}: {error})"
        ) from error
    if not frames:
        raise ValueError(f"{source} holds no structures")
    return list(frames)


def _structure(
    atoms: Atoms, name: str, source: str, state: ElectronicState | None
) -> Structure:
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    name = name or str(atoms.info.get("name", "")) or atoms.get_chemical_formula()
    return Structure(bare, name, source, state)


def _check(atoms: Atoms, row: int) -> None:
    """Refuse what no dataset could hold before anything is calculated."""
    if len(atoms) == 0:
        raise ValueError("it has no atoms; remove the frame")
    check_geometry(atoms, row)


def check_geometry(atoms: Atoms, row: int) -> None:
    """Raise where no dataset could hold this geometry.

    Args:
        atoms: Elements, positions and cell are looked at.
        row: Number of the structure, for messages.

    Raises:
        ValueError: The message names structure, atom and value.
    """
    values = {
        "atomic_numbers": atoms.numbers,
        "positions": atoms.positions,
        "total_charge": np.zeros(1),
        "pbc": np.asarray(atoms.pbc, dtype=np.uint8)[None],
        "cell": atoms.cell.array[None],
    }
    molecules = Molecules(np.array([len(atoms)]), values, np.array([row]))
    check_molecules(molecules, allow_missing=False)


def _without(entries: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if name != key}
