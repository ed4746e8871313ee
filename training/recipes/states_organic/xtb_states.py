"""Label organic molecules in all their states by tight binding: many and cheap.

``python xtb_states.py organic.json`` takes displaced geometries of the molecules of the
list from ``aimnet2_organics.npz`` and labels them by spin-polarised GFN2-xTB as they
are, without one hydrogen atom, and with a proton at any heavy atom. Gaps of GFN2-xTB
are off by more than an electronvolt; where a hole or an electron sits, and how that
bends a molecule, is what a network learns from it, beside few labels that are right.
"""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from ase import Atom, Atoms
from ase.data import covalent_radii
from loky import ProcessPoolExecutor
from physnet_training.label import Method, parse_states
from physnet_training.label.plan import read_smiles
from physnet_training.label.run import attempt, label_geometry
from rich.progress import track

from physnet_ase.commands.smiles import numbers_and_state
from physnet_ase.state import ElectronicState

DATA = Path(__file__).parents[2] / "data"
MOLECULE_STATES = parse_states("0,1 1,2 -1,2 0,3")
RADICAL_STATES = parse_states("0,2 1,1 -1,1")
PROTONATED = parse_states("1,1")
DISPLACED = 0.04
"""Å, normal deviates on top of the geometry for what is no molecule of the list."""
_FREE_SPACE = 1.3
"""Covalent bond lengths that a proton keeps from atoms other than its own."""
LARGEST_FORCE = 20.0
"""eV/Å; a geometry with more of it is no place where anybody goes."""


class Species(NamedTuple):
    """One geometry and the states that it is labelled in."""

    name: str
    kind: str
    atoms: Atoms
    states: tuple[ElectronicState, ...]


def without_hydrogen(atoms: Atoms, rng: np.random.Generator) -> Atoms | None:
    """A radical: the molecule without one of its hydrogen atoms, if it has any."""
    hydrogens = np.flatnonzero(atoms.numbers == 1)
    if not len(hydrogens) or len(atoms) < 3:
        return None
    radical = atoms.copy()
    del radical[int(rng.choice(hydrogens))]
    return radical


def with_proton(atoms: Atoms, rng: np.random.Generator) -> Atoms | None:
    """The molecule with a proton at one of its heavy atoms, if there is room."""
    site = int(rng.choice(np.flatnonzero(atoms.numbers > 1)))
    lengths = covalent_radii[atoms.numbers] + covalent_radii[1]
    directions = rng.normal(size=(64, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    places = atoms.positions[site] + lengths[site] * directions
    gaps = np.linalg.norm(places[:, None] - atoms.positions, axis=2)
    gaps[:, site] = np.inf
    room = np.flatnonzero((gaps > _FREE_SPACE * lengths).all(axis=1))
    if not len(room):
        return None
    ion = atoms.copy()
    ion.append(Atom("H", places[room[0]]))
    return ion


def species_of(data: Any, names: set[str], rng: np.random.Generator) -> list[Species]:
    """Molecules, radicals and protonated ones, at geometries of the data."""
    ends = np.cumsum(data["n_atoms"])
    rows: dict[str, list[int]] = {}
    for row, (name, charge) in enumerate(
        zip(data["name"].tolist(), data["charge"].tolist(), strict=True)
    ):
        if name in names and charge == 0:
            rows.setdefault(name, []).append(row)

    def geometry(row: int) -> Atoms:
        atoms = slice(ends[row] - data["n_atoms"][row], ends[row])
        return Atoms(data["numbers"][atoms], data["positions"][atoms].astype(float))

    found = []
    for name, own in rows.items():
        if numbers_and_state(name)[1] != ElectronicState(0, 1):
            continue
        # the first is relaxed
        found.append(
            Species(
                name, "molecule", geometry(own[min(1, len(own) - 1)]), MOLECULE_STATES
            )
        )
        bases = [geometry(own[-1]) for _ in range(2)]
        for base in bases:
            base.positions += rng.normal(scale=DISPLACED, size=base.positions.shape)
        radical = without_hydrogen(bases[0], rng)
        ion = with_proton(bases[1], rng)
        if radical is not None:
            found.append(Species(name, "radical", radical, RADICAL_STATES))
        if ion is not None:
            found.append(Species(name, "protonated", ion, PROTONATED))
    return found


def labels_of(species: Species) -> list[dict[str, Any]]:
    """What could be labelled of one geometry."""
    method = Method("gfn2-xtb")
    found = []
    for state in species.states:
        values = attempt(label_geometry, species.atoms, state, method).values
        if values is None:
            continue
        if np.abs(values["forces"]).max() < LARGEST_FORCE:
            found.append({"state": state, **values})
    return found


def packed(
    species: list[Species], labels: list[list[dict[str, Any]]]
) -> dict[str, Any]:
    """The ragged arrays."""
    lines = [
        (number, each, line)
        for number, (each, found) in enumerate(zip(species, labels, strict=True))
        for line in found
    ]

    def joined(key: str, digits: int) -> np.ndarray:
        arrays = [np.asarray(line[key]) for *_, line in lines]
        return np.concatenate(arrays).astype(np.float32).round(digits)

    positions = [each.atoms.positions for _, each, _ in lines]
    return {
        "name": np.array([each.name for _, each, _ in lines]),
        "kind": np.array([each.kind for _, each, _ in lines]),
        "n_atoms": np.array([len(each.atoms) for _, each, _ in lines], np.int32),
        "charge": np.array([line["state"].charge for *_, line in lines], np.int8),
        "multiplicity": np.array(
            [line["state"].multiplicity for *_, line in lines], np.int8
        ),
        "geometry": np.array([number for number, *_ in lines], np.int32),
        "energy": np.array([line["energy"] for *_, line in lines]).round(5),
        "dipole": np.array([line["dipole"] for *_, line in lines], np.float32).round(3),
        "numbers": np.concatenate([e.atoms.numbers for _, e, _ in lines]).astype(
            np.uint8
        ),
        "positions": np.concatenate(positions).astype(np.float32).round(4),
        "forces": joined("forces", 3),
        "spin_populations": joined("spin_populations", 3),
        "level_of_theory": np.array(Method("gfn2-xtb").level),
        "units": np.array(
            '{"energy": "eV", "positions": "angstrom", "forces": "eV/angstrom", '
            '"dipole": "e*angstrom", "spin_populations": "electrons"}'
        ),
    }


def main(
    molecules: Annotated[Path, typer.Argument(help='JSON list of {"smiles": …}.')],
    target: Annotated[Path, typer.Option(help="The .npz file to write.")] = DATA
    / "states_organic"
    / "xtb.npz",
    geometries: Annotated[Path, typer.Option(help="Where geometries are.")] = DATA
    / "wb97m"
    / "aimnet2_organics.npz",
    without: Annotated[
        Path, typer.Option(help="Labels of molecules that are left out: the test.")
    ] = DATA / "states_organic" / "gaps_heldout.npz",
    workers: Annotated[int, typer.Option(help="Parallel calculations.")] = 2,
) -> None:
    """Label the molecules of the list in all their states, and pack the labels."""
    with np.load(without) as held_out:
        names = {*read_smiles(molecules)} - {*held_out["name"].tolist()}
    with np.load(geometries) as data:
        species = species_of(dict(data), names, np.random.default_rng(0))
    with ProcessPoolExecutor(workers) as executor:
        results = executor.map(labels_of, species, chunksize=20)
        labels = list(track(results, "labelling", total=len(species)))
    made = packed(species, labels)
    np.savez_compressed(target, **made)
    missing = sum(len(each.states) for each in species) - len(made["energy"])
    typer.echo(
        f"{target}: {len(made['energy'])} labels at {len(species)} geometries, "
        f"{missing} failed, {target.stat().st_size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    typer.run(main)
