"""Atoms made ready for jax-md: coordinates, neighbour list, integrator, blocks."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jax_md import space

from physnet_ase.jaxmd import physnet_neighbor_list
from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import check_distances, evaluation_pairs, without_vacuum
from physnet_ase.potential import Potential
from physnet_ase.simulate.blocks import BlockFns, compile_block, settle
from physnet_ase.simulate.ensembles import bath_energy, make_integrator
from physnet_ase.simulate.settings import SimulationSettings
from physnet_ase.state import ElectronicState
from physnet_ase.velocities import degrees_of_freedom, thermal_momenta


def checked_atoms(atoms: Atoms, state: ElectronicState, cutoff: float) -> Atoms:
    """A copy that can be simulated; a molecule alone in a periodic box counts as open.

    Raises:
        ValueError: Atoms that are none or nearly coincide, or constraints, which
            jax-md's integrators do not know.
    """
    if atoms.constraints:
        names = sorted({type(one).__name__ for one in atoms.constraints})
        raise ValueError(
            f"simulate.run does not honour constraints ({', '.join(names)}), and would "
            "move what they hold: remove them with atoms.set_constraint(), or use "
            "ASE's dynamics with PhysNetCalculator"
        )
    whole = Molecules.from_atoms([atoms], [state])
    alone = without_vacuum(whole, cutoff)
    check_distances(alone, evaluation_pairs(alone, cutoff))
    copy: Atoms = atoms.copy()
    copy.positions = alone.values["positions"]
    copy.pbc = alone.values["pbc"][0].astype(bool)
    return copy


class Coordinates:
    """Between an ASE cell and jax-md: open systems centred, cells as fractions.

    jax-md wants an upper triangular box with the lattice vectors as columns; the cell
    is rotated there, and momenta and forces are rotated back.
    """

    def __init__(self, atoms: Atoms) -> None:
        self.atoms = atoms
        if atoms.pbc.any() and not (atoms.pbc.all() and atoms.cell.rank == 3):
            raise ValueError(
                "jax-md needs three periodic directions with lattice vectors, or none; "
                f"got pbc={atoms.pbc.tolist()} and a cell of rank {atoms.cell.rank}. "
                "Use ASE's dynamics with PhysNetCalculator for slabs and wires"
            )
        self.periodic = bool(atoms.pbc.all())
        self.box: np.ndarray | None = None  # [3, 3] Å
        self.rotation = np.eye(3)
        if self.periodic:
            lower, rotation = atoms.cell.standard_form()
            signs = np.sign(np.diag(lower.array))
            self.box = (lower.array * signs).T  # positive lengths on the diagonal
            self.rotation = signs[:, None] * rotation

    def positions(self) -> np.ndarray:
        """Fractions of the cell within 0..1, or Å from the centre in open systems."""
        if self.periodic:
            return self.atoms.get_scaled_positions(wrap=True)
        # Near the origin float32 keeps the digits that distances need.
        return self.atoms.positions - self.atoms.positions.mean(axis=0)

    def rotate(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors of the atoms' frame, (N, 3), in jax-md's frame."""
        return vectors @ self.rotation.T

    def frame(self, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Positions, momenta, forces and cell of a record, in the atoms' frame."""
        position = record["position"].astype(np.float64)
        if self.periodic:
            cell = record["box"].astype(np.float64).T @ self.rotation
            position = position @ cell
        else:
            cell = self.atoms.cell.array
            position = position + self.atoms.positions.mean(axis=0)
        return {
            "positions": position,
            "cell": cell,
            "momenta": record["momentum"].astype(np.float64) @ self.rotation,
            "forces": record["force"].astype(np.float64) @ self.rotation,
        }


class System:
    """Atoms made ready for jax-md: coordinates, neighbour list, compiled blocks."""

    def __init__(
        self,
        atoms: Atoms,
        potential: Potential,
        state: ElectronicState,
        settings: SimulationSettings,
    ) -> None:
        """Take atoms whose structure is checked, see :func:`checked_atoms`."""
        self.atoms, self.settings, self.dtype = atoms, settings, potential.dtype
        self.coordinates = Coordinates(atoms)
        self.cutoff = potential.config.cutoff
        self.npt = settings.ensemble == "npt"
        if self.npt and not self.coordinates.periodic:
            raise ValueError("npt needs a periodic cell; use nvt for an open system")
        self.reference = potential.reference_energy(atoms.numbers, state)
        self.momenta = atoms.get_momenta()
        if not self.momenta.any():
            self.momenta = thermal_momenta(
                atoms,
                settings.temperature_K,
                settings.seed,
                ensemble=settings.ensemble,
            )
        self.dof = degrees_of_freedom(atoms, settings.ensemble, self.momenta)
        self.box = None
        displacement, shift = space.free()
        if self.coordinates.periodic:
            self.box = jnp.asarray(self.coordinates.box, self.dtype)
            displacement, shift = space.periodic_general(self.box)
        # jax-md measures how far atoms moved in fractions of the box, so that a box
        # that shrinks would go unnoticed: with NPT every step builds a new list.
        self.neighbor_fn, self.energy_fn = physnet_neighbor_list(
            displacement,
            self.box,
            potential,
            atoms.numbers,
            state.charge,
            state.multiplicity,
            self.coordinates.periodic,
            allow_unseen_states=settings.allow_unseen_states,
            dr_threshold=0.0 if self.npt else settings.skin,
        )
        self.init_fn, step_fn = make_integrator(settings, self._energy, shift)
        fns = BlockFns(
            step=lambda state, neighbor: step_fn(state, neighbor=neighbor),
            update=lambda state, neighbor: self._update(
                state.position, neighbor, self._box(state)
            ),
            observe=self.observe,
        )
        self.block = compile_block(fns, settings.save_every, settings.block_steps)

    def box_of(self, state: Any) -> Any:
        """Present box; None in open systems."""
        return state.box if self.npt else self.box

    def _box(self, state: Any) -> dict[str, Any]:
        return {"box": state.box} if self.npt else {}

    def start_positions(self) -> Any:
        """Positions of the atoms as jax-md sees them."""
        return jnp.asarray(self.coordinates.positions(), self.dtype)

    def allocate(self, position: Any, box: Any, extra: int) -> Any:
        """Neighbour list with room for ``extra`` more neighbours per atom."""
        kwargs = {"box": box} if self.npt else {}
        return self.neighbor_fn.allocate(position, extra_capacity=extra, **kwargs)

    def _update(self, position: Any, neighbor: Any, box: dict[str, Any]) -> Any:
        # Positions that are no numbers must show up as such, not as a full list.
        position = jnp.where(
            jnp.isfinite(position), position, neighbor.reference_position
        )
        return neighbor.update(position, **box)

    def _energy(self, position: Any, neighbor: Any, **kwargs: Any) -> Any:
        """Energy with a list that fits ``position``, though the step just moved it."""
        box = {key: kwargs[key] for key in ("box",) if key in kwargs}
        neighbor = self._update(*jax.lax.stop_gradient((position, neighbor, box)))
        return self.energy_fn(position, neighbor, **kwargs)

    def start(self, neighbor: Any) -> Any:
        """Integrator state at the atoms' positions, with their momenta."""
        box = {"box": self.box} if self.npt else {}
        state = self.init_fn(
            jax.random.PRNGKey(self.settings.seed),
            self.start_positions(),
            mass=jnp.asarray(self.atoms.get_masses(), self.dtype),
            momenta=jnp.asarray(self.coordinates.rotate(self.momenta), self.dtype),
            neighbor=neighbor,
            **box,
        )
        # jax-md counts 3N. What is conserved holds no heat, and would make a molecule
        # of three atoms three times too hot.
        for name in ("chain", "thermostat"):
            if hasattr(state, name):
                chain = getattr(state, name).set(degrees_of_freedom=max(self.dof, 1))
                state = state.set(**{name: chain})
        return settle(state, self.dtype)

    def box_report(self, state: Any) -> str:
        """How large the box was before the block, and how small it must not become."""
        sides = jnp.linalg.norm(state.box, axis=0)
        return (
            f"The box had sides of {', '.join(f'{s:.2f}' for s in sides)} Å when the "
            f"block began; thinner than {2.0 * self.cutoff} Å, it gives NaN"
        )

    def observe(self, state: Any, neighbor: Any) -> dict[str, Any]:
        """What is kept of a frame, in jax-md's coordinates."""
        box = self._box(state)
        return {
            "position": state.position,
            "momentum": state.momentum,
            "force": state.force,
            "box": jnp.zeros((3, 3)) if self.box is None else self.box_of(state),
            "potential": self._energy(state.position, neighbor, **box),
            "kinetic": 0.5 * jnp.sum(state.momentum**2 / state.mass),
            "bath": bath_energy(state, self.settings).astype(self.dtype),
        }
