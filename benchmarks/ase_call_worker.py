"""One contestant of ``ase_calls.py``: says what it is, then gives a turn when asked.

Runs in the environment of its model, so each part imports what it needs.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule

Turn = Callable[[], dict[str, float]]
CALLS = 40


def emit(report: dict[str, Any]) -> None:
    """One line to whoever started this process."""
    print(json.dumps(report), flush=True)


def butane() -> Atoms:
    """14 atoms."""
    return molecule("trans-butane")


def milliseconds(action: Callable[[], Any]) -> float:
    """Median time of a turn's calls."""
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def steps(atoms: Atoms) -> Callable[[], Any]:
    """Forces at new positions, as every step of dynamics asks for them."""
    rng = np.random.default_rng(0)
    shape, start = atoms.positions.shape, atoms.positions.copy()

    def step() -> Any:
        atoms.positions = start + rng.normal(scale=1e-3, size=shape)
        return atoms.get_forces()

    step()
    return step


def our_potential(name: str) -> Any:
    """A preset with random weights, or a pretrained model."""
    from physnet_ase import load_potential, untrained_potential

    if name == "paper":
        return untrained_potential(name, states=((0, 1), (1, 2)))
    return load_potential(name)


def physnet(model: str, charge: str) -> tuple[dict[str, Any], Turn]:
    """This package."""
    from physnet_ase import PhysNetCalculator

    atoms = butane()
    atoms.calc = PhysNetCalculator(our_potential(model), charge=int(charge))
    step = steps(atoms)
    about = {"jax": version("jax"), "charge": int(charge)}
    return about, lambda: {"call_ms": milliseconds(step)}


def nequip() -> tuple[dict[str, Any], Turn]:
    """mlip's NequIP at its default size and cutoff, with random weights."""
    from mlip.data import DatasetInfo
    from mlip.models import ForceField, Nequip
    from mlip.simulation.ase.mlip_ase_calculator import MLIPForceFieldASECalculator

    info = DatasetInfo(
        atomic_energies_map={1: 0.0, 6: 0.0, 7: 0.0, 8: 0.0},
        graph_cutoff_angstrom=5.0,
        avg_num_neighbors=12.0,
    )
    atoms = butane()
    field = ForceField.from_mlip_network(Nequip(Nequip.Config(), info), seed=0)
    atoms.calc = MLIPForceFieldASECalculator(atoms, 1.2, field)
    step = steps(atoms)
    about = {name: version(name) for name in ("mlip", "jax")}
    return about, lambda: {"call_ms": milliseconds(step)}


def overhead(model: str) -> tuple[dict[str, Any], Turn]:
    """The call, and the compiled function with the same padded graph."""
    import jax

    from physnet_ase import PhysNetCalculator
    from physnet_ase.energy import PROGRAMS
    from physnet_ase.graph import build_graph, centred
    from physnet_ase.molecules import Molecules
    from physnet_ase.neighbors import evaluation_pairs

    potential, atoms = our_potential(model), butane()
    molecule = Molecules.from_atoms([atoms])
    pairs = evaluation_pairs(molecule, potential.config.cutoff)
    graph = potential.programs.prepare(build_graph(centred(molecule), pairs))
    params = jax.device_put(potential.params)
    function = jax.jit(lambda p, g: PROGRAMS["forces"](potential.config, p, g))
    jax.block_until_ready(function(params, graph))
    atoms.calc = PhysNetCalculator(potential)
    step = steps(atoms)

    def turn() -> dict[str, float]:
        alone = milliseconds(lambda: jax.block_until_ready(function(params, graph)))
        return {"function_ms": alone, "call_ms": milliseconds(step)}

    return {"jax": version("jax")}, turn


def compilations(model: str) -> tuple[dict[str, Any], Turn]:
    """Thirty molecules in two states through one calculator."""
    import jax

    from physnet_ase import PhysNetCalculator

    calculator = PhysNetCalculator(our_potential(model))
    events = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: events.append(event)
    )
    grid = 1.4 * np.argwhere(np.ones((4, 4, 3)))
    sizes = [*range(1, 27), 30, 34, 37, 40]
    for count in sizes:
        atoms = Atoms("O" + "C" * (count - 1), grid[:count])
        atoms.calc = calculator
        for multiplicity in (1, 3):
            atoms.info["spin_multiplicity"] = multiplicity
            atoms.get_potential_energy()
            atoms.get_forces()
    by_jax = events.count("/jax/core/compile/backend_compile_duration")
    counted = {"calculator": calculator.num_compilations, "jax_events": by_jax}
    return counted | {"sizes": sizes}, dict


def first(model: str) -> tuple[dict[str, Any], Turn]:
    """One answer."""
    from physnet_ase import PhysNetCalculator

    atoms = butane()
    atoms.calc = PhysNetCalculator(model)
    return {"largest_force": float(np.abs(atoms.get_forces()).max())}, dict


def evaluate(model: str) -> tuple[dict[str, Any], Turn]:
    """Vertical ionization of 100 molecules of 2-14 atoms, three ways."""
    from ase.collections import g2

    from physnet_ase import PhysNetCalculator

    potential, rng = our_potential(model), np.random.default_rng(0)
    known = [molecule(name) for name in g2.names]
    known = [a for a in known if set(a.numbers) <= {1, 6, 7, 8} and len(a) > 1]
    known = [a for a in known if a.numbers.sum() % 2 == 0]
    several = []
    for index in range(100):
        atoms = known[index % len(known)].copy()
        atoms.set_initial_magnetic_moments(None)
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        several.append(atoms)
    states = [(0, 1), (1, 2)]
    calculator = PhysNetCalculator(potential)

    def call_by_call() -> None:
        for atoms in several:
            for charge, multiplicity in states:
                atoms.info.update(charge=charge, spin_multiplicity=multiplicity)
                calculator.get_potential_energy(atoms)

    actions = {
        "calls_s": call_by_call,
        "energies_s": lambda: potential.evaluate(several, states, ("energy",)),
        "forces_s": lambda: potential.evaluate(several, states, ("energy", "forces")),
    }
    for action in actions.values():
        action()

    def turn() -> dict[str, float]:
        seconds = {}
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            seconds[name] = time.perf_counter() - started
        return seconds

    atoms_each = [len(atoms) for atoms in several]
    return {"molecules": len(several), "atoms": sum(atoms_each)}, turn


ROLES: dict[str, Callable[..., tuple[dict[str, Any], Turn]]] = {
    "physnet": physnet,
    "nequip": nequip,
    "overhead": overhead,
    "compilations": compilations,
    "first": first,
    "evaluate": evaluate,
}

if __name__ == "__main__":
    description, take_turn = ROLES[sys.argv[1]](*sys.argv[2:])
    emit(description)
    for _ in sys.stdin:
        emit(take_turn())
