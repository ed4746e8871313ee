"""Choose which molecules of a list to label next: those with surroundings yet unseen.

``python choose.py organic.json chosen.smi --known organic.labels`` writes the SMILES
for ``label_organic.py --first``; a packed ``gaps.npz`` says what is known as well.
Every atom has a surrounding: itself, its neighbours, its ring. The next molecule is the
one that brings most of those that are common in the list and rare among the labels, for
the time its labels take. With ``--model`` the heads of a model put these in order:
first where they disagree most on a vertical energy, for that time.
"""

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from physnet_training.label import parse_states
from physnet_training.label.output import JOURNAL, read_labels
from physnet_training.label.plan import read_smiles

from physnet_ase import load_potential
from physnet_ase.commands.smiles import conformer, numbers_and_state, rdkit

ORGANIC = {1, 6, 7, 8}
VERTICAL = parse_states("0,1 1,2 0,3")
"""Neutral, cation and triplet: those that ``label_organic.py --gaps`` labels."""
SEEN_AGAIN = 0.35
"""What a surrounding is worth that one more labelled molecule had already."""
COST_POWER = 3.5
"""Time of a label grows with this power of the number of heavy atoms."""
SETUP = 2.0
"""Heavy atoms that cost as much as all that does not depend on the size."""


def surroundings(smiles: str) -> Counter[tuple[object, ...]]:
    """Surroundings of the heavy atoms: of radius 1, and coarser ones of radius 2."""
    molecule = rdkit().MolFromSmiles(smiles)

    def own(atom: object) -> tuple[object, ...]:
        return (
            atom.GetSymbol(),  # type: ignore[attr-defined]
            atom.GetTotalNumHs(),  # type: ignore[attr-defined]
            atom.GetIsAromatic(),  # type: ignore[attr-defined]
        )

    found: Counter[tuple[object, ...]] = Counter()
    for atom in molecule.GetAtoms():
        bonds = sorted(
            (str(bond.GetBondType()), own(bond.GetOtherAtom(atom)))
            for bond in atom.GetBonds()
        )
        smallest = next((n for n in (3, 4, 5, 6) if atom.IsInRingSize(n)), 0)
        found[(own(atom), smallest, *bonds)] += 1
        for bond in atom.GetBonds():  # which groups stand beside each other
            other = bond.GetOtherAtom(atom)
            ends = sorted(
                [
                    (own(atom), sorted(n.GetSymbol() for n in atom.GetNeighbors())),
                    (own(other), sorted(n.GetSymbol() for n in other.GetNeighbors())),
                ]
            )
            found[("pair", str(bond.GetBondType()), str(ends))] += 1
    return found


def choose(
    listed: list[str], known: set[str], most: int, largest: int, elements: set[int]
) -> list[str]:
    """SMILES in the order in which to label them."""
    environments: dict[str, list[tuple[object, ...]]] = {}
    sizes: dict[str, int] = {}
    for smiles in listed:
        numbers, state = numbers_and_state(smiles)
        if (state.charge, state.multiplicity) != (0, 1):
            continue
        if not set(numbers.tolist()) <= elements:
            continue
        environments[smiles] = list(surroundings(smiles))
        sizes[smiles] = int((numbers > 1).sum())
    popular = Counter(e for found in environments.values() for e in found)
    seen = Counter(e for s in known & environments.keys() for e in environments[s])
    left = {s for s in environments if s not in known and sizes[s] <= largest}
    chosen: list[str] = []

    def worth(smiles: str) -> float:
        gain = sum(popular[e] * SEEN_AGAIN ** seen[e] for e in environments[smiles])
        return float(gain / (sizes[smiles] + SETUP) ** COST_POWER)

    while left and len(chosen) < most:
        best = max(sorted(left), key=worth)
        left.remove(best)
        chosen.append(best)
        seen.update(environments[best])
    return chosen


def by_disagreement(chosen: list[str], model: str) -> list[str]:
    """The chosen molecules, first where a label tells the heads most for its time.

    Args:
        chosen: SMILES; those without a geometry, or of other elements, are left out.
        model: Name or directory of a model with heads.

    Raises:
        ValueError: A model without heads, which cannot disagree.
    """
    potential = load_potential(model)
    if potential.num_members < 2:
        raise ValueError(
            f"{model} has one head, and nothing to disagree with; train it with "
            "model.num_heads"
        )
    atoms = {}
    for smiles in chosen:
        with suppress(ValueError):  # no geometry, so no label
            atoms[smiles] = conformer(smiles)
    kept = [s for s in atoms if set(atoms[s].numbers) <= set(potential.elements)]
    answers = potential.evaluate([atoms[s] for s in kept], VERTICAL, ("energy",))
    worth = {}
    for smiles, states in zip(kept, answers, strict=True):
        energies = np.array([state.members("energy") for state in states])
        apart = np.std(energies[1:] - energies[0], axis=1).max()
        size = int((atoms[smiles].numbers > 1).sum())
        worth[smiles] = apart / (size + SETUP) ** COST_POWER
    return sorted(worth, key=lambda smiles: (-worth[smiles], smiles))


def main(
    molecules: Annotated[Path, typer.Argument(help='JSON list of {"smiles": …}.')],
    target: Annotated[Path, typer.Argument(help="File of SMILES to write.")],
    known: Annotated[
        list[Path] | None,
        typer.Option(help="What is labelled: a run's TARGET.labels or a packed .npz."),
    ] = None,
    most: Annotated[int, typer.Option(help="How many molecules.")] = 200,
    largest: Annotated[int, typer.Option(help="Most heavy atoms of one.")] = 6,
    elements: Annotated[str, typer.Option(help="Symbols besides H C N O.")] = "",
    model: Annotated[
        str, typer.Option(help="Whose heads choose among these; name or directory.")
    ] = "",
) -> None:
    """Write the molecules whose labels would teach most."""
    from ase.data import atomic_numbers

    further = {atomic_numbers[s] for s in elements.split()}
    done: set[str] = set()
    for path in known or ():
        if path.is_dir():
            done |= {line["name"] for line in read_labels(path / JOURNAL)[1]}
        else:
            with np.load(path) as packed:
                done |= set(packed["name"].tolist())
    chosen = choose(read_smiles(molecules), done, most, largest, ORGANIC | further)
    if model:
        chosen = by_disagreement(chosen, model)
    target.write_text("".join(f"{smiles}\n" for smiles in chosen), encoding="utf-8")
    typer.echo(json.dumps({"chosen": len(chosen), "file": str(target)}))


if __name__ == "__main__":
    typer.run(main)
