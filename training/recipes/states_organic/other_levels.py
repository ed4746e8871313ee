"""Cut the data of other levels of theory that ``states_organic.toml`` learns from, too.

``python other_levels.py AIMNET2.npz GSCDB.npz FOLDER`` writes a part of two published
sets: closed-shell organic molecules and ions with forces from the AIMNet2 ensemble, a
few structures of each molecule, and molecules of the GSCDB137 database with energies
near the basis-set limit. Both are ragged ``.npz`` files that ``convert`` reads.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from physnet_ase.units import HARTREE

ELEMENTS = (1, 6, 7, 8, 9, 16, 17)
PER_MOLECULE = 3
"""Structures of each molecule: the relaxed one, others at random."""
MOST_ATOMS = 26


def rows_of(n_atoms: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Rows of the atoms of chosen molecules."""
    first = np.cumsum(n_atoms) - n_atoms
    return np.concatenate([np.arange(first[i], first[i] + n_atoms[i]) for i in chosen])


def allowed(data: Any) -> np.ndarray:
    """[molecules] whether all elements, the size, the charge and the spin are ours."""
    n_atoms = data["n_atoms"]
    owner = np.repeat(np.arange(len(n_atoms)), n_atoms)
    foreign = ~np.isin(data["numbers"], ELEMENTS)
    bad = np.bincount(owner, foreign, len(n_atoms)) > 0
    small = (n_atoms > 1) & (n_atoms <= MOST_ATOMS)
    return ~bad & small & (abs(data["charge"]) <= 1) & (data["multiplicity"] <= 3)


def aimnet2(data: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A few structures of each molecule, with forces and charges."""
    kept: list[int] = []
    usable = np.flatnonzero(allowed(data))
    order = usable[np.argsort(data["molecule"][usable], kind="stable")]
    ends = np.flatnonzero(np.diff(data["molecule"][order])) + 1
    relaxed = data["tag_names"].tolist().index("relaxed")
    for group in np.split(order, ends):
        first = group[data["tag"][group] == relaxed][:1]
        others = rng.permutation(np.setdiff1d(group, first))
        kept += [*first, *others[: PER_MOLECULE - len(first)]]
    chosen = np.sort(np.array(kept))
    atoms = rows_of(data["n_atoms"], chosen)
    return {
        "name": data["name"][chosen],
        "n_atoms": data["n_atoms"][chosen],
        "charge": data["charge"][chosen].astype(np.int8),
        "multiplicity": data["multiplicity"][chosen].astype(np.int8),
        "energy": data["energy"][chosen].astype(np.float64),
        "numbers": data["numbers"][atoms].astype(np.uint8),
        "positions": data["positions"][atoms].astype(np.float32).round(4),
        "forces": data["forces"][atoms].astype(np.float32).round(4),
        "level_of_theory": np.array("wB97M-D3(BJ)/def2-TZVPP by AIMNet2"),
    }


def gscdb(data: Any) -> dict[str, np.ndarray]:
    """All that are allowed; energies alone."""
    chosen = np.flatnonzero(allowed(data))
    atoms = rows_of(data["n_atoms"], chosen)
    return {
        "name": data["name"][chosen],
        "n_atoms": data["n_atoms"][chosen],
        "charge": data["charge"][chosen].astype(np.int8),
        "multiplicity": data["multiplicity"][chosen].astype(np.int8),
        "energy": data["energy_hartree_wB97M_V"][chosen] * HARTREE,
        "numbers": data["numbers"][atoms].astype(np.uint8),
        "positions": data["positions"][atoms].astype(np.float32).round(4),
        "level_of_theory": np.array("wB97M-V near the basis-set limit"),
    }


def main(
    teacher: Annotated[Path, typer.Argument(help="aimnet2_organics.npz")],
    database: Annotated[Path, typer.Argument(help="gscdb_train.npz")],
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
) -> None:
    """Write ``aimnet2_organics.npz`` and ``gscdb_organics.npz``."""
    rng = np.random.default_rng(0)
    units = np.array(
        '{"energy": "eV", "positions": "angstrom", "forces": "eV/angstrom"}'
    )
    for path, make in ((teacher, lambda d: aimnet2(d, rng)), (database, gscdb)):
        with np.load(path, allow_pickle=False) as data:
            made = make(dict(data))
        target = folder / f"{path.stem.split('_')[0]}_organics.npz"
        np.savez_compressed(target, **made, units=units)
        size = target.stat().st_size / 1e6
        typer.echo(f"{target}: {len(made['n_atoms'])} structures, {size:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
