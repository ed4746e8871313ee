"""Pack the labels that a run has finished by now; the run may go on meanwhile.

``python pack.py TARGET.labels states_organic.npz`` writes the ragged layout of
``training/data/states_dft/states_dft.npz``, which ``physnet-train convert`` reads.
"""

import json
from collections.abc import Iterable
from itertools import compress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from physnet_training.label.output import JOURNAL, is_contaminated, read_labels

from physnet_ase.commands.smiles import numbers_and_state

LEVELS = {
    "wb97x/def2-svpd": "wB97X/def2-SVPD (PySCF 2.14, grid level 2, RKS for singlets, "
    "UKS otherwise)",
    "wb97x/def2-svp": "wB97X/def2-SVP",
}
"""As the run calls the level -> as it is stored."""
UNITS = {
    "positions": "angstrom",
    "energy": "eV",
    "forces": "eV/angstrom",
    "dipole": "e*angstrom (about the coordinate origin)",
    "mulliken_charges": "e",
    "spin_populations": "electrons",
}
PER_ATOM = {
    "numbers": "atomic_numbers",
    "positions": "positions",
    "forces": "forces",
    "mulliken_charges": "charges",
    "spin_populations": "spin_populations",
}


def without_net_force(positions: np.ndarray, forces: np.ndarray) -> np.ndarray:
    """Forces with the part removed that moves or turns the molecule as a whole.

    An isolated molecule has none; the integration grid of DFT leaves some.
    """
    centred = positions - positions.mean(axis=0)
    motions = [np.tile(axis, (len(positions), 1)) for axis in np.eye(3)]
    motions += [np.cross(axis, centred) for axis in np.eye(3)]
    basis, sizes, _ = np.linalg.svd(np.stack([m.ravel() for m in motions]).T, False)
    basis = basis[:, sizes > 1e-6 * sizes[0]]  # a line turns about two axes only
    flat = forces.ravel()
    return (flat - basis @ (basis.T @ flat)).reshape(forces.shape)


def kind_of(smiles: str) -> str:
    """Molecule, radical, protonated or deprotonated: by the SMILES itself."""
    _, state = numbers_and_state(smiles)
    if state.multiplicity > 1:
        return "radical"
    return {0: "molecule", 1: "protonated", -1: "deprotonated"}[state.charge]


def arrays(lines: list[dict[str, Any]], level: str) -> dict[str, np.ndarray]:
    """The ragged arrays of some labels."""
    kinds = {name: kind_of(name) for name in {line["name"] for line in lines}}
    for line in lines:
        if "forces" in line:
            positions, forces = np.array(line["positions"]), np.array(line["forces"])
            line["forces"] = without_net_force(positions, forces)
        thermal = line["temperature_K"]
        line["temperature_K"] = np.nan if thermal is None else thermal
    made = {
        "name": np.array([line["name"] for line in lines]),
        "kind": np.array([kinds[line["name"]] for line in lines]),
        "n_atoms": np.array([len(line["atomic_numbers"]) for line in lines], np.int32),
        "charge": np.array([line["charge"] for line in lines], np.int8),
        "multiplicity": np.array([line["multiplicity"] for line in lines], np.int8),
        "energy": np.array([line["energy"] for line in lines]),
        "dipole": np.array([line["dipole"] for line in lines], np.float32),
        "s_squared": np.array([line["s_squared"] for line in lines], np.float32),
        "contaminated": np.array([is_contaminated(line) for line in lines]),
        "temperature_K": np.array(
            [line["temperature_K"] for line in lines], np.float32
        ),
        "geometry": numbered(np.array(line["positions"]).tobytes() for line in lines),
        "units": np.array(json.dumps(UNITS)),
        "level_of_theory": np.array(LEVELS[level]),
    }
    for name, key in PER_ATOM.items():
        if key not in lines[0]:
            continue  # energies alone
        dtype = np.uint8 if name == "numbers" else np.float32
        joined = np.concatenate([np.asarray(line[key]) for line in lines])
        made[name] = joined.astype(dtype)
    return made


def numbered(positions: Iterable[bytes]) -> np.ndarray:
    """Number of each geometry, from 0 in the order of their first labels."""
    known: dict[bytes, int] = {}
    return np.array(
        [known.setdefault(each, len(known)) for each in positions], np.int32
    )


def joined(first: Path, more: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The labels of a packed file, and then those of a run that it lacks.

    Raises:
        ValueError: They are of another level, or do not hold the same arrays.
    """
    with np.load(first) as packed:
        earlier = dict(packed)
    if earlier.keys() != more.keys():
        odd = ", ".join(sorted(earlier.keys() ^ more.keys()))
        raise ValueError(
            f"{first} and the run do not both hold {odd}; pack them into files of "
            "their own"
        )
    for name in ("level_of_theory", "units"):
        if str(earlier[name]) != str(more[name]):
            raise ValueError(
                f"{first}: {name} is {earlier[name]}, that of the run {more[name]}; "
                "pack them into files of their own"
            )
    both = {
        name: np.concatenate([earlier[name], array]) if array.ndim else array
        for name, array in more.items()
    }
    ends = np.cumsum(both["n_atoms"])[:-1]
    positions = [each.tobytes() for each in np.split(both["positions"], ends)]
    labels = zip(
        *(both[name].tolist() for name in ("name", "charge", "multiplicity")),
        positions,
        strict=True,
    )
    seen: set[object] = set()
    new = np.ones(len(positions), bool)
    for place, label in enumerate(labels):
        new[place] = label not in seen
        seen.add(label)
    atoms = np.repeat(new, both["n_atoms"])
    kept = {
        name: array[atoms if name in PER_ATOM else new] if array.ndim else array
        for name, array in both.items()
    }
    kept["geometry"] = numbered(compress(positions, new))
    return kept


def main(
    run: Annotated[
        Path, typer.Argument(help="TARGET.labels of a run, or its journal.")
    ],
    target: Annotated[Path, typer.Argument(help="The .npz file to write.")],
    clean: Annotated[
        bool, typer.Option("--clean", help="Leave out spin-contaminated labels.")
    ] = False,
    add_to: Annotated[
        Path | None,
        typer.Option(help="Packed labels that go first; none is taken twice."),
    ] = None,
) -> None:
    """Pack what is finished, in the order in which it was, and count it."""
    settings, lines = read_labels(run / JOURNAL if run.is_dir() else run)
    if clean:
        lines = [line for line in lines if not is_contaminated(line)]
    made = arrays(lines, settings["method"]["level"])
    if add_to is not None:
        made = joined(add_to, made)
    fresh = target.with_name(f".{target.name}")
    with fresh.open("wb") as file:
        np.savez_compressed(file, **made)
    fresh.replace(target)
    counts = target.with_suffix(".md")
    counts.write_text(table(made), encoding="utf-8")
    typer.echo(f"{target}: {target.stat().st_size / 1e6:.2f} MB\n{counts.read_text()}")


def table(made: dict[str, np.ndarray]) -> str:
    """Labels by kind of species and state, as Markdown."""
    states = np.stack([made["charge"], made["multiplicity"]], axis=1)
    columns = sorted(set(map(tuple, states.tolist())))
    heads = [f"({charge}, {multiplicity})" for charge, multiplicity in columns]
    rows = [["kind", "species", *heads, "all"], ["---"] * (len(columns) + 3)]
    for kind in ("molecule", "radical", "protonated", "deprotonated", "all"):
        here = (made["kind"] == kind) | (kind == "all")
        cells = [((states == state).all(axis=1) & here).sum() for state in columns]
        rows.append([kind, len(set(made["name"][here])), *cells, here.sum()])
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    contaminated = int(made["contaminated"].sum())
    return "\n".join(
        [
            "# Labels by kind and state (charge, 2S+1)\n",
            *lines,
            f"\n{made['geometry'].max() + 1} geometries; {contaminated} contaminated "
            "labels.\n",
        ]
    )


if __name__ == "__main__":
    typer.run(main)
