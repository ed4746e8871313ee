"""Label a list of molecules, with their radicals and ions, smallest first.

Every finished label is a line of JSON in one append-only file; a run that was stopped in
any way goes on where it was. ``python driver.py LIST JOURNAL [--workers 2]``.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np
from species import Species, family, read_list

LEVEL = {
    "functional": "wb97x",
    "basis": "def2-svpd",
    "grid_level": 2,
    "density_fit": True,
    "stability": True,
}
TIMEOUT_S = 900
Task = tuple[Species, int, tuple[tuple[int, int], ...]]


def key(smiles: str, geometry: int, charge: int, multiplicity: int) -> str:
    return f"{smiles} {geometry} {charge},{multiplicity}"


def tasks(names: list[str]) -> Iterator[Task]:
    """Species, geometry and states, in the order in which they are labelled.

    Geometry 0 is relaxed in the first state, 1 displaced from it, 2 relaxed as a cation
    and displaced (labelled as a cation only).
    """
    from rdkit import Chem

    organic = {"C", "H", "N", "O"}
    groups: dict[tuple[int, bool], list[list[Species]]] = {}
    seen = set()
    for name in names:
        try:
            members = list(family(name))
        except ValueError as error:
            print("skipped:", error, flush=True)
            continue
        members = [m for m in members if m.smiles not in seen]
        seen.update(m.smiles for m in members)
        if not members or members[0].kind != "molecule":
            continue
        symbols = {a.GetSymbol() for a in Chem.MolFromSmiles(name).GetAtoms()}
        # up to three heavy atoms are one class: the element decides first
        size = max(members[0].heavy, 3)
        groups.setdefault((size, not symbols <= organic), []).append(members)

    def whole(kinds: tuple[str, ...], members: list[Species], most: int) -> list[Species]:
        return [s for k in kinds for s in [m for m in members if m.kind == k][:most]]

    order = sorted({size for size, _ in groups})
    for size in order:
        for other in (False, True):
            here = groups.get((size, other), [])
            half = [int(hashlib.sha256(m[0].parent.encode()).hexdigest(), 16) % 2 for m in here]
            small = size <= 3
            ions = ("protonated", "deprotonated")
            # each molecule once, at the relaxed or a displaced geometry
            for members, which in zip(here, half, strict=True):
                for geometry in (0, 1) if small else (which,):
                    yield members[0], geometry, members[0].states
                for ion in whole(ions, members, 2 if small else 1):
                    yield ion, 1, ion.states
                    if small:
                        yield ion, 0, ion.states
                yield members[0], 2, ((1, 2),)
                for radical in whole(("radical",), members, 2 if small else which):
                    yield radical, 1 if small or members[0].heavy % 2 else 0, radical.states


def conformer(smiles: str) -> Any:
    """Atoms of the lowest of five force-field conformers."""
    from ase import Atoms
    from rdkit import Chem, RDLogger
    from rdkit.Chem import AllChem

    RDLogger.DisableLog("rdApp.*")
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed = 7
    parameters.useRandomCoords = True
    identifiers = list(AllChem.EmbedMultipleConfs(molecule, 5, parameters))
    if not identifiers:
        raise ValueError("RDKit found no geometry")
    best = identifiers[0]
    try:
        if AllChem.MMFFHasAllMoleculeParams(molecule):
            energies = AllChem.MMFFOptimizeMoleculeConfs(molecule, maxIters=1000)
        else:
            energies = AllChem.UFFOptimizeMoleculeConfs(molecule, maxIters=1000)
        values = [e if ok >= 0 else np.inf for ok, e in energies]
        best = identifiers[int(np.argmin(values))]
    except (RuntimeError, ValueError):
        pass
    numbers = [a.GetAtomicNum() for a in molecule.GetAtoms()]
    return Atoms(numbers, molecule.GetConformer(best).GetPositions()), molecule


def bonds(atoms: Any) -> set[tuple[int, int]]:
    """Pairs closer than 1.3 times the sum of their covalent radii."""
    from ase.data import covalent_radii

    radii = covalent_radii[atoms.numbers]
    close = atoms.get_all_distances() < 1.3 * (radii[:, None] + radii[None])
    return {(int(i), int(j)) for i, j in np.argwhere(close) if i < j}


def geometry(species: Species, number: int) -> tuple[Any, float | None]:
    """Atoms of a geometry and its temperature."""
    from physnet_ase.state import ElectronicState
    from physnet_training.labelling.calculators import TightBinding
    from physnet_training.labelling.sampling import (
        Sampling,
        prepare,
        random_generator,
        vibrate,
    )

    atoms, molecule = conformer(species.smiles)
    expected = {
        tuple(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())))
        for b in molecule.GetBonds()
    }
    states = [species.states[0]] + ([(1, 2)] if number == 2 else [])
    start = None
    for state in states:
        last = state == states[-1]
        sampling = Sampling(relax=True, kind="modes" if number and last else "none")
        if len(atoms) > 1:
            start = prepare(
                atoms, TightBinding("GFN2-xTB", ElectronicState(*state)), sampling
            )
            atoms.positions = start.positions
        if bonds(atoms) != expected:
            raise ValueError(f"relaxed in {state} it has other bonds than its SMILES")
    if not number or start is None:
        return atoms, None
    rng = random_generator(0, species.smiles, number)
    temperature = float(rng.choice([300.0, 500.0]))
    vibrate(atoms, start.hessian, temperature, rng)
    atoms.positions -= atoms.get_center_of_mass()
    return atoms, temperature


class _TooLong(Exception):
    pass


def _alarm(*_: object) -> None:
    raise _TooLong(f"it took longer than {TIMEOUT_S} s")


def work(task: Task) -> list[dict[str, Any]]:
    """Lines of the journal for one geometry in its states."""
    from ase.calculators.calculator import CalculationFailed

    from physnet_ase.state import ElectronicState
    from physnet_training.labelling.calculators import DensityFunctional

    species, number, states = task
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(TIMEOUT_S)
    lines: list[dict[str, Any]] = []
    begin = time.monotonic()
    try:
        atoms, temperature = geometry(species, number)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return [
            {"failure": key(species.smiles, number, *state), "reason": reason}
            for state in states
        ]
    for charge, multiplicity in states:
        name = key(species.smiles, number, charge, multiplicity)
        signal.alarm(TIMEOUT_S)
        try:
            options = dict(LEVEL)
            calculator = DensityFunctional(
                options.pop("functional"),
                options.pop("basis"),
                ElectronicState(charge, multiplicity),
                **options,
            )
            calculator.calculate(atoms, ["energy", "forces"])
            results = calculator.results
            squared = results.pop("s_squared")
            line = {
                "label": name,
                "smiles": species.smiles,
                "kind": species.kind,
                "parent": species.parent,
                "geometry": number,
                "temperature_K": temperature,
                "charge": charge,
                "multiplicity": multiplicity,
                "numbers": atoms.numbers.tolist(),
                "positions": atoms.positions.tolist(),
                "energy": results["energy"],
                "forces": results["forces"].tolist(),
                "dipole": results["dipole"].tolist(),
                "charges": results["charges"].tolist(),
                "spin_populations": results["magmoms"].tolist(),
                "s_squared": squared,
            }
            line["seconds"] = round(time.monotonic() - begin, 2)
        except (CalculationFailed, _TooLong, ValueError, RuntimeError) as error:
            line = {"failure": name, "reason": f"{type(error).__name__}: {error}"}
        except Exception:
            line = {"failure": name, "reason": traceback.format_exc(limit=-1)}
        lines.append(line)
        begin = time.monotonic()
    signal.alarm(0)
    return lines


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a journal."""
    if not path.exists():
        return []
    data = path.read_bytes()
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("list", type=Path)
    parser.add_argument("journal", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--count", action="store_true", help="only count the tasks")
    options = parser.parse_args()
    from filelock import FileLock
    from loky import ProcessPoolExecutor

    names = read_list(options.list)
    names = [n for n in names if n]
    if options.count:
        total = list(tasks(names))
        print(len(total), "geometries", sum(len(t[2]) for t in total), "labels")
        return
    with FileLock(f"{options.journal}.lock", timeout=0), options.journal.open("ab") as out:
        data = options.journal.read_bytes()
        out.truncate(data.rfind(b"\n") + 1)
        known = read(options.journal)
        done = {line.get("label") or line.get("failure") for line in known}
        if not known:
            out.write(json.dumps({"settings": LEVEL}, separators=(",", ":")).encode() + b"\n")
        queue = (
            (s, g, left)
            for s, g, states in tasks(names)
            if (left := tuple(x for x in states if key(s.smiles, g, *x) not in done))
        )
        pool = ProcessPoolExecutor(options.workers)
        begin, count, failed = time.monotonic(), 0, 0
        running = {}
        for _ in range(options.workers):
            if (task := next(queue, None)) is not None:
                running[pool.submit(work, task)] = task
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                species, number, states = running.pop(future)
                try:
                    lines = future.result()
                except Exception as error:  # a worker died
                    lines = [
                        {"failure": key(species.smiles, number, *s), "reason": repr(error)}
                        for s in states
                    ]
                    pool = ProcessPoolExecutor(options.workers)
                for line in lines:
                    out.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
                    count += "label" in line
                    failed += "failure" in line
                out.flush()
                os.fsync(out.fileno())
                rate = count / (time.monotonic() - begin) * 3600
                print(
                    f"{species.smiles} {species.kind} {number}: {count} labels, {failed} "
                    f"failed, {rate:.0f} labels/h",
                    flush=True,
                )
                if (task := next(queue, None)) is not None:
                    running[pool.submit(work, task)] = task


if __name__ == "__main__":
    sys.exit(main())
