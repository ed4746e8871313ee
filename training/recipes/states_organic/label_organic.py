"""Label a list of molecules, their radicals and ions, smallest first.

``python label_organic.py LIST.json TARGET [--workers 2]``; the README beside it says
more. Interrupt it at any time: the same command goes on where it stopped.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from physnet_training.label import (
    Chain,
    Method,
    Plan,
    Run,
    Sampling,
    Structure,
    label,
    parse_states,
    smiles_structure,
)
from physnet_training.label.plan import read_smiles, relatives
from physnet_training.label.sampling import random_generator
from rich.console import Console

MOLECULE_STATES = parse_states("0,1 1,2 -1,2 0,3")
RADICAL_STATES = parse_states("0,2 1,1 -1,1")
CATION = MOLECULE_STATES[1]
ORGANIC = {1, 6, 7, 8}
METHOD = Method("pyscf", "wb97x", "def2-svpd", grid_level=2)
GAPS = Method("pyscf", "wb97x", "def2-svp", grid_level=1)
"""A tenth of the time of METHOD; how far its gaps are from those of METHOD stands in
the README. Without diffuse functions no anions. Forces cost 28 % more than energies
alone."""
GAP_STATES = parse_states("0,1 1,2 0,3")
TEMPERATURES = (300.0, 500.0)
SMALL = 3
"""Molecules of up to so many heavy atoms are one size; of H C N O at two geometries."""


class Family:
    """A molecule of the list with its radicals and closed-shell ions."""

    def __init__(self, smiles: str) -> None:
        self.molecule = smiles_structure(smiles)
        self.relatives: dict[str, list[Structure]] = defaultdict(list)
        kinds = ("radicals", "protonated", "deprotonated")
        for kind, name in relatives(smiles, kinds, most=3):
            self.relatives[kind].append(smiles_structure(name))
        self.size = int((self.molecule.numbers > 1).sum())
        self.organic = set(self.molecule.numbers.tolist()) <= ORGANIC
        self.displaced = is_displaced(smiles)

    @property
    def is_small(self) -> bool:
        """Whether it is labelled at two geometries, with two of each relative."""
        return self.size <= SMALL and self.organic

    def ladders(self) -> Iterator[Chain]:
        """The molecule in all its states: what vertical energies are learned from."""
        molecule, small = self.molecule, self.is_small
        if small or not self.displaced:
            yield Chain(molecule, MOLECULE_STATES[0], MOLECULE_STATES)
        if small or self.displaced:
            yield displaced(molecule, MOLECULE_STATES, 1)

    def chains(self) -> Iterator[Chain]:
        """All labels of this family."""
        molecule, small = self.molecule, self.is_small
        yield from self.ladders()
        for kind in ("protonated", "deprotonated"):
            for ion in self.relatives[kind][: 2 if small else 1]:
                yield displaced(ion, (ion.state,), 1)
        yield displaced(molecule, (CATION,), 2)
        most = 2 if small else int(self.displaced)
        for radical in self.relatives["radicals"][:most]:
            if small or self.size % 2:
                yield displaced(radical, RADICAL_STATES, 1)
            else:
                yield Chain(radical, RADICAL_STATES[0], RADICAL_STATES)


def is_displaced(smiles: str) -> bool:
    """Half of the larger molecules are labelled displaced, the others relaxed."""
    return int(hashlib.sha256(smiles.encode()).hexdigest(), 16) % 2 == 1


def displaced(structure: Structure, states: tuple, stream: int) -> Chain:
    """One geometry of the normal modes of the first state, at one of two temperatures.

    Args:
        structure: Molecule, radical or ion.
        states: The first one vibrates, all are labelled.
        stream: Of the random numbers that choose the temperature.
    """
    rng = random_generator(0, structure.name, stream)
    temperature = float(rng.choice(TEMPERATURES))
    return Chain(structure, states[0], states, "modes", temperature)


def gap_plan(smiles: Sequence[str]) -> Plan:
    """Three states at one geometry of each molecule, in order."""
    chains = [
        displaced(smiles_structure(each), GAP_STATES, 1)
        if is_displaced(each)
        else Chain(smiles_structure(each), GAP_STATES[0], GAP_STATES)
        for each in dict.fromkeys(smiles)
    ]
    sampling = Sampling(kind="modes", samples=1, relax=True)
    return Plan(chains, GAPS, sampling, Method("gfn2-xtb"))


def make_plan(path: Path, first: Sequence[str] = ()) -> Plan:
    """All labels, small molecules first, and of each size those of H C N O first.

    Args:
        path: The list.
        first: SMILES of the list whose ladders come before all others, in their order.

    Raises:
        ValueError: Some of these are not in the list.
    """
    families = []
    listed = read_smiles(path)
    foreign = sorted({*first} - {*listed})
    if foreign:
        raise ValueError(f"--first names {', '.join(foreign)}, which {path} lacks")
    for smiles in listed:
        family = Family(smiles)
        if family.molecule.state is not None or family.molecule.numbers.sum() % 2:
            continue  # an ion or a radical of its own
        families.append(family)
    families.sort(key=lambda f: (max(f.size, SMALL), not f.organic))
    by_name = {family.molecule.name: family for family in families}
    early = [chain for s in first if s in by_name for chain in by_name[s].ladders()]
    chains: dict[str, Chain] = {}  # molecules share radicals and ions
    for chain in [*early, *(chain for f in families for chain in f.chains())]:
        chains.setdefault(chain.key, chain)
    return Plan(
        list(chains.values()),
        METHOD,
        Sampling(kind="modes", samples=1, relax=True),
        Method("gfn2-xtb"),
    )


def main(
    molecules: Annotated[Path, typer.Argument(help='JSON list of {"smiles": …}.')],
    target: Annotated[Path, typer.Argument(help="Packed dataset to make.")],
    workers: Annotated[int, typer.Option(help="Parallel calculations.")] = 2,
    timeout: Annotated[float, typer.Option(help="s, for one label.")] = 900.0,
    first: Annotated[
        Path | None, typer.Option(help="SMILES of the list to be labelled first.")
    ] = None,
    gaps: Annotated[
        bool,
        typer.Option(
            "--gaps",
            help="Three states at a cheaper level, at one geometry of each molecule of "
            "the list in its order.",
        ),
    ] = False,
    count: Annotated[bool, typer.Option("--count", help="Only count.")] = False,
) -> None:
    """Label the list; finished labels stand in TARGET.labels at once."""
    console = Console(stderr=True)
    if gaps:
        plan = gap_plan(read_smiles(molecules))
    else:
        plan = make_plan(molecules, () if first is None else read_smiles(first))
    total = sum(len(chain.states) * chain.samples for chain in plan.chains)
    console.print(f"{len(plan.chains)} geometries, {total} labels", highlight=False)
    if count:
        return

    def show(done: int, failed: int, total: int) -> None:
        if done % 10 == 0:
            console.print(f"{done}/{total}, {failed} failed", highlight=False)

    label(plan, target, run=Run(workers, timeout), on_progress=show)


if __name__ == "__main__":
    typer.run(main)
