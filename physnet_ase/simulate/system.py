"""Replicas made ready: structures, momenta, arrays, and lists of their pairs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from physnet_ase.graph import Capacity, Graph, build_graph, size_class
from physnet_ase.molecules import Molecules, concatenate
from physnet_ase.neighbors import (
    ALL_PAIRS_LIMIT,
    NO_MESH,
    Pairs,
    check_distances,
    evaluation_pairs,
    finest_mesh,
    join_pairs,
    without_vacuum,
)
from physnet_ase.parts import Division, division, undivided
from physnet_ase.potential import Potential
from physnet_ase.quantities import QUANTITIES
from physnet_ase.reciprocal import ewald_cell, mesh_shape
from physnet_ase.simulate.blocks import Surroundings
from physnet_ase.simulate.ensembles import (
    CHAIN_LENGTH,
    Bodies,
    Chain,
    Controls,
    Evaluation,
    Motion,
)
from physnet_ase.simulate.settings import CELL_ENSEMBLES, SimulationSettings
from physnet_ase.state import ElectronicState, resolve_state
from physnet_ase.units import BOLTZMANN, FEMTOSECOND, GIGAPASCAL
from physnet_ase.velocities import degrees_of_freedom, thermal_momenta

logger = logging.getLogger(__name__)
SAME_MESH = 0.08
"""Share by which a cell may grow or shrink before Ewald's k-vectors are chosen anew."""
LOT_PAIRS = 1500
"""Pairs of atoms that are evaluated together on a CPU, as measured."""
LARGEST_SKIN = 4.0
"""Å; atoms that outrun a list with this skin in a single step have exploded."""


@dataclass(frozen=True)
class Replica:
    """One system: where it starts, in which state, with which settings."""

    atoms: Atoms  # as the user passed them
    structure: Molecules  # one molecule, about its centre; open where vacuum surrounds
    centre: np.ndarray  # (3,) Å
    state: ElectronicState
    settings: SimulationSettings
    mobile: np.ndarray  # (atoms,) bool
    momenta: np.ndarray  # (atoms, 3)
    degrees: int  # of freedom

    @property
    def periodic(self) -> bool:
        """Whether it has images."""
        return bool(self.structure.periodic[0])

    @property
    def listed(self) -> bool:
        """Whether its pairs change as atoms move; small open molecules have all."""
        return self.periodic or len(self.atoms) > ALL_PAIRS_LIMIT

    def temperature(self, kinetic: Any) -> Any:
        """Kinetic temperature in K of kinetic energies in eV; 0 without motion."""
        return kinetic * (2.0 / (self.degrees * BOLTZMANN) if self.degrees else 0.0)


def make_replica(
    atoms: Atoms, potential: Potential, settings: SimulationSettings
) -> Replica:
    """Check everything that can be known before the first step.

    Raises:
        ValueError: A state, a structure or a constraint that cannot be simulated.
    """
    state = simulation_state(atoms, settings)
    mobile = mobile_atoms(atoms)
    cutoff = potential.config.cutoff
    whole = without_vacuum(Molecules.from_atoms([atoms], [state]), cutoff)
    potential.check(
        atoms.numbers,
        state,
        allow_unseen_states=settings.allow_unseen_states,
        periodic=bool(whole.periodic[0]),
    )
    check_distances(whole, evaluation_pairs(whole, cutoff))
    if settings.ensemble in CELL_ENSEMBLES:
        _check_npt(atoms, alone=not whole.periodic[0], held=not mobile.all())
    positions = whole.values["positions"]
    centre = positions.mean(axis=0)
    # Open directions, and atoms put together across the faces of a box, matter to
    # angular momentum.
    alone: Atoms = atoms.copy()
    alone.set_constraint()
    alone.positions, alone.pbc = positions, whole.values["pbc"][0].astype(bool)
    momenta = np.where(mobile[:, None], alone.get_momenta(), 0.0)
    if not momenta.any():
        momenta = thermal_momenta(
            alone,
            settings.temperature_K,
            settings.seed,
            ensemble=settings.ensemble,
            mobile=mobile,
        )
    return Replica(
        atoms=atoms.copy(),
        structure=whole.with_values(positions=positions - centre),
        centre=centre,
        state=state,
        settings=settings,
        mobile=mobile,
        momenta=momenta,
        degrees=degrees_of_freedom(alone, settings.ensemble, momenta, mobile),
    )


def simulation_state(atoms: Atoms, settings: SimulationSettings) -> ElectronicState:
    """State of the atoms; refuses a setting that ``atoms.info`` contradicts."""
    state = resolve_state(atoms, settings.charge, settings.multiplicity)
    for name in ("charge", "multiplicity"):
        asked, found = getattr(settings, name), getattr(state, name)
        if asked is not None and asked != found:
            raise ValueError(
                f"{name}={asked} was passed, but atoms.info says {found}; change one"
            )
    return state


def mobile_atoms(atoms: Atoms) -> np.ndarray:
    """Which atoms no ``FixAtoms`` holds, (atoms,) bool.

    Raises:
        ValueError: Another kind of constraint.
    """
    others = [one for one in atoms.constraints if not isinstance(one, FixAtoms)]
    if others:
        names = sorted({type(one).__name__ for one in others})
        raise ValueError(
            f"simulate.run honours FixAtoms, not {', '.join(names)}, and would move "
            "what they hold: remove them with atoms.set_constraint(), or use ASE's "
            "dynamics with PhysNetCalculator"
        )
    mobile = np.ones(len(atoms), bool)
    for one in atoms.constraints:
        mobile[one.index] = False
    if not mobile.any():
        raise ValueError("FixAtoms holds every atom: nothing would move")
    return mobile


def _check_npt(atoms: Atoms, *, alone: bool, held: bool) -> None:
    pbc = atoms.pbc
    if pbc.any() and not pbc.all():
        raise ValueError(
            "npt needs three periodic directions with lattice vectors, got "
            f"pbc={pbc.tolist()}; use nvt"
        )
    if alone:
        raise ValueError("npt needs a periodic cell; use nvt for an open system")
    if held:
        raise ValueError("npt moves every atom with the cell; remove FixAtoms, or nvt")


class Replicas:
    """Replicas as the flat arrays of one program."""

    def __init__(self, replicas: Sequence[Replica], potential: Potential) -> None:
        self.all, self.potential, self.dtype = [*replicas], potential, potential.dtype
        self.cutoff = potential.config.cutoff
        self.params = jax.tree.map(jnp.asarray, potential.params)
        self.sizes = np.array([len(one.atoms) for one in replicas])
        self.molecules = concatenate([one.structure for one in replicas])
        self.bodies = self._bodies()
        self.controls = self._controls()

    @property
    def first_atom(self) -> np.ndarray:
        """Row of the first atom of each replica."""
        return np.cumsum(self.sizes) - self.sizes

    def rows(self, index: int) -> slice:
        """Atoms of one replica in the flat arrays."""
        first = int(self.first_atom[index])
        return slice(first, first + int(self.sizes[index]))

    def chunks(self, divisions: Sequence[Division]) -> int:
        """Lots in which replicas are evaluated, one after another.

        Where all are open molecules of one size and the processor has caches: a few
        small molecules at a time stay inside them, and take less than half the time.
        """
        count, size = len(self.all), int(self.sizes[0])
        alike = (self.sizes == size).all() and not any(one.listed for one in self.all)
        whole = all(len(one.states) == 1 for one in divisions)
        if not (alike and whole) or jax.default_backend() != "cpu":
            return 1
        few = max(LOT_PAIRS // max(size * (size - 1), 1), 1)
        return next(
            n for n in range(1, count + 1) if count % n == 0 and count // n <= few
        )

    def divide(self, replica: Replica, state: ElectronicState) -> Division:
        """Fragments of a replica as it starts, and what each holds of a state."""
        charge = np.array([state.charge], np.int32)
        spin = np.array([state.multiplicity], np.int32)
        molecule = replica.structure.with_values(
            total_charge=charge, spin_multiplicity=spin
        )
        model = self.potential
        if replica.periodic:
            return undivided(model.references, replica.atoms.numbers, state)
        pairs = evaluation_pairs(molecule, self.cutoff)
        return division(model.programs, model.references, molecule, pairs)

    def _floats(self, values: Any) -> Any:
        return jnp.asarray(np.asarray(values), self.dtype)

    def _bodies(self) -> Bodies:
        volumes = [
            abs(np.linalg.det(one.structure.values["cell"][0])) if one.periodic else 0.0
            for one in self.all
        ]
        return Bodies(
            owner=jnp.asarray(self.molecules.owner, jnp.int32),
            place=jnp.asarray(
                np.concatenate([np.arange(n) for n in self.sizes]), jnp.int32
            ),
            masses=self._floats(
                np.concatenate([one.atoms.get_masses() for one in self.all])
            ),
            mobile=jnp.asarray(np.concatenate([one.mobile for one in self.all])),
            degrees=self._floats([max(one.degrees, 1) for one in self.all]),
            volume=self._floats(volumes),
        )

    def _controls(self) -> Controls:
        shared = self.all[0].settings
        every = [one.settings for one in self.all]
        finals = [
            one.temperature_K
            if one.final_temperature_K is None
            else one.final_temperature_K
            for one in every
        ]
        seeds = [one.seed for one in every]
        return Controls(
            timestep=self._floats(shared.timestep_fs * FEMTOSECOND),
            thermal=self._floats([BOLTZMANN * one.temperature_K for one in every]),
            final_thermal=self._floats([BOLTZMANN * one for one in finals]),
            ramp_steps=self._floats(shared.ramp_steps or shared.steps),
            friction=self._floats(shared.friction_per_ps / (1000.0 * FEMTOSECOND)),
            thermostat_time=self._floats(shared.thermostat_fs * FEMTOSECOND),
            barostat_time=self._floats(shared.barostat_fs * FEMTOSECOND),
            pressure=self._floats(shared.pressure_GPa * GIGAPASCAL),
            compressibility=self._floats(shared.compressibility_per_GPa / GIGAPASCAL),
            keys=jnp.asarray(
                [[seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF] for seed in seeds],
                jnp.uint32,
            ),
        )

    def start(self) -> Motion:
        """All replicas at their structures, forces not yet computed."""
        count, atoms = len(self.all), int(self.sizes.sum())
        zeros, eye = self._floats(np.zeros(count)), np.tile(np.eye(3), (count, 1, 1))
        links = self._floats(np.zeros((count, CHAIN_LENGTH)))
        momenta = np.concatenate([one.momenta for one in self.all])
        return Motion(
            positions=self._floats(self.molecules.values["positions"]),
            momenta=self._floats(momenta),
            found=Evaluation(
                energy=zeros,
                forces=self._floats(np.zeros((atoms, 3))),
                charges=self._floats(np.zeros(atoms)),
                virial=self._floats(np.zeros((count, 3, 3))),
            ),
            chain=Chain(links, links),
            cell_chain=Chain(links, links),
            deformation=self._floats(eye),
            scale_velocity=zeros,
            heat=zeros,
        )


class PairLists:
    """The pairs of all replicas: looked up on the host, sized for one program.

    Where a replica's atoms have moved, or its cell has shrunk, by more than the list
    allows, only its own pairs are looked up again. Periodic images of any number count,
    so a cell may be thinner than twice the cutoff.
    """

    def __init__(self, replicas: Replicas) -> None:
        self.replicas = replicas
        count = len(replicas.all)
        shared = replicas.all[0].settings
        self.positions = np.array(replicas.molecules.values["positions"])
        self.deformation = np.tile(np.eye(3), (count, 1, 1))
        self.mesh_deformation = self.deformation.copy()  # the mesh was chosen there
        self.skins = np.full(count, shared.skin)
        self.built_at = np.zeros(count, np.int64)
        self.divisions = [replicas.divide(one, one.state) for one in replicas.all]
        self.capacity = Capacity(0, 0, 0, 0)
        self._pairs: list[Pairs | None] = [None] * count
        self._graph: Graph | None = None

    def refresh(self, motion: Motion, stale: np.ndarray, step: int) -> list[int]:
        """Look up the pairs of stale replicas anew; returns those that are beyond help.

        A list that outdates within the very step it was made for gets twice the skin.
        """
        lost = []
        positions = np.asarray(motion.positions, np.float64)
        deformation = np.asarray(motion.deformation, np.float64)
        for index in np.flatnonzero(stale).tolist():
            if self.built_at[index] == step and self._pairs[index] is not None:
                if self.skins[index] >= LARGEST_SKIN:
                    lost.append(index)
                    continue
                self.skins[index] *= 2.0
            rows = self.replicas.rows(index)
            self.positions[rows] = positions[rows]
            self.deformation[index] = deformation[index]
            self.built_at[index] = step
            self._pairs[index] = None
        self._graph = None
        return lost

    def set_states(self, states: Sequence[ElectronicState]) -> None:
        """Put replicas into other states; shapes stay."""
        every = zip(self.replicas.all, states, strict=True)
        self.divisions = [self.replicas.divide(one, state) for one, state in every]
        self._graph = None

    def surroundings(self) -> Surroundings:
        """What a block needs to know of them."""
        replicas, dtype = self.replicas, self.replicas.dtype
        if self._graph is None:
            self._graph = self._build()
        skins = [
            skin if replica.listed else np.inf
            for skin, replica in zip(self.skins, replicas.all, strict=True)
        ]
        return Surroundings(
            self._graph,
            jnp.asarray(np.linalg.inv(self.deformation), dtype),
            jnp.asarray(np.array(skins), dtype),
        )

    def _build(self) -> Graph:
        replicas = self.replicas
        molecules = self._molecules()
        for index, pairs in enumerate(self._pairs):
            if pairs is None:
                one = molecules.take(np.array([index]))
                found = evaluation_pairs(
                    one, replicas.cutoff, skin=float(self.skins[index])
                )
                self._pairs[index] = found._replace(mesh=self._mesh(index))
        known = [pairs for pairs in self._pairs if pairs is not None]
        joined = join_pairs(known, replicas.sizes)
        self._enlarge(joined)
        graph = build_graph(self._fragments(molecules), joined, self.capacity)
        floats: dict[str, Any] = {
            name: jnp.asarray(getattr(graph, name), replicas.dtype)
            for name in ("positions", "shifts", "cell")
        }
        return jax.tree.map(jnp.asarray, graph._replace(**floats))

    def _mesh(self, index: int) -> tuple[int, int, int]:
        """A replica's mesh: the one chosen before while its cell is much the same.

        The energy then has no steps.
        """
        replicas = self.replicas
        if not replicas.all[index].periodic:
            return NO_MESH
        since = np.linalg.solve(self.mesh_deformation[index], self.deformation[index])
        if np.abs(since - np.eye(3)).max() > SAME_MESH:
            self.mesh_deformation[index] = self.deformation[index]
        values = replicas.all[index].structure.values
        cell = ewald_cell(
            values["cell"][0], values["pbc"][0].astype(bool), values["positions"]
        )
        chosen = cell @ self.mesh_deformation[index]
        return mesh_shape(chosen, replicas.cutoff)

    def _molecules(self) -> Molecules:
        """Structures at which the pairs are looked up, in their present states."""
        molecules = self.replicas.molecules
        values = {"positions": self.positions}
        if "cell" in molecules.values:
            values["cell"] = molecules.values["cell"] @ self.deformation
        return molecules.with_values(**values)

    def _fragments(self, molecules: Molecules) -> Molecules:
        """A row for each fragment, in its state; most replicas are a single one."""
        counts = np.array([len(one.states) for one in self.divisions])
        states = [state for one in self.divisions for state in one.states]
        sizes = [np.bincount(one.labels) for one in self.divisions]
        values = molecules.values | {
            name: np.repeat(array, counts, axis=0)
            for name, array in molecules.values.items()
            if not QUANTITIES[name].per_atom
        }
        values["total_charge"] = np.array([s.charge for s in states], np.int32)
        values["spin_multiplicity"] = np.array(
            [s.multiplicity for s in states], np.int32
        )
        n_atoms = np.concatenate(sizes).astype(np.int32)
        return Molecules(n_atoms, values, np.repeat(molecules.rows, counts))

    def _enlarge(self, pairs: Pairs) -> None:
        """Let the capacity hold these pairs, with some room where lists change."""
        replicas = self.replicas
        need = len(pairs.senders)
        rows = sum(len(one.states) for one in self.divisions)
        changing = any(one.listed for one in replicas.all)
        if (
            need > self.capacity.pairs
            or finest_mesh([pairs.mesh, self.capacity[4:7]]) != self.capacity[4:7]
            or rows > self.capacity.molecules
        ):
            if self.capacity.atoms:
                logger.info("neighbour list full: enlarged for %d pairs", need)
            room = size_class(need + need // 20, ratio=1.25) if changing else need
            self.capacity = Capacity(
                rows,
                int(replicas.sizes.sum()),
                max(room, self.capacity.pairs),
                len(pairs.long_senders),
                *finest_mesh([pairs.mesh, self.capacity[4:7]]),
            )

    def arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps: lists follow from it to the last digit."""
        return {
            "pairs_positions": self.positions,
            "pairs_deformation": self.deformation,
            "pairs_skins": self.skins,
            "pairs_mesh_deformation": self.mesh_deformation,
            "pairs_built_at": self.built_at,
            "pairs_capacity": np.array(self.capacity),
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take up what :meth:`arrays` returned."""
        self.positions = arrays["pairs_positions"]
        self.deformation = arrays["pairs_deformation"]
        self.skins = arrays["pairs_skins"]
        self.mesh_deformation = arrays["pairs_mesh_deformation"]
        self.built_at = arrays["pairs_built_at"]
        self.capacity = Capacity(*map(int, arrays["pairs_capacity"]))
        self._pairs = [None] * len(self._pairs)
        self._graph = None
