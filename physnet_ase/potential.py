"""From terms to energies, forces and more: the one place that differentiates."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Array, Float

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph
from physnet_ase.metadata import ModelMetadata, symbols
from physnet_ase.state import ElectronicState, as_state, check_possible
from physnet_ase.terms import AtomicTerms, Params, molecule_energies


def terms_and_forces(
    config: ModelConfig, params: Params, graph: Graph
) -> tuple[AtomicTerms, Float[Array, "atoms 3"]]:
    """Terms and forces = -∂E/∂R in eV/Å; zero on padded atoms."""
    positions = jnp.asarray(graph.positions)

    def energy(x: jax.Array) -> tuple[jax.Array, AtomicTerms]:
        return molecule_energies(config, params, graph, x)

    gradient, terms = jax.grad(energy, has_aux=True)(positions)
    return terms, -gradient


def _terms(config: ModelConfig, params: Params, graph: Graph) -> dict[str, Any]:
    _, terms = molecule_energies(config, params, graph, jnp.asarray(graph.positions))
    return terms._asdict()


def _forces(config: ModelConfig, params: Params, graph: Graph) -> dict[str, Any]:
    terms, forces = terms_and_forces(config, params, graph)
    return terms._asdict() | {"forces": forces}


def _stress(config: ModelConfig, params: Params, graph: Graph) -> dict[str, Any]:
    positions = jnp.asarray(graph.positions)
    strain = jnp.zeros((graph.total_charge.shape[0], 3, 3), positions.dtype)

    def energy(x: jax.Array, eps: jax.Array) -> tuple[jax.Array, AtomicTerms]:
        return molecule_energies(config, params, graph, x, eps)

    (gradient, virial), terms = jax.grad(energy, argnums=(0, 1), has_aux=True)(
        positions, strain
    )
    return terms._asdict() | {"forces": -gradient, "virial": virial}


def _hessian(config: ModelConfig, params: Params, graph: Graph) -> dict[str, Any]:
    def gradient(x: jax.Array) -> jax.Array:
        moved = graph._replace(positions=x)
        return -terms_and_forces(config, params, moved)[1]

    positions = jnp.asarray(graph.positions)
    size = positions.size
    return {"hessian": jax.jacfwd(gradient)(positions).reshape(size, size)}


def _dipole_derivatives(
    config: ModelConfig, params: Params, graph: Graph
) -> dict[str, Any]:
    # Molecules do not see each other's positions, so the derivative of the sum of all
    # dipoles holds that of each molecule in the rows of its own atoms.
    def dipole(x: jax.Array) -> jax.Array:
        _, terms = molecule_energies(config, params, graph, x)
        return terms.charges @ x

    derivatives = jax.jacrev(dipole)(jnp.asarray(graph.positions))
    return {"dipole_derivatives": jnp.moveaxis(derivatives, 0, -1)}


_PROGRAMS: dict[str, Callable[[ModelConfig, Params, Graph], dict[str, Any]]] = {
    "terms": _terms,
    "forces": _forces,
    "stress": _stress,
    "hessian": _hessian,
    "dipole_derivatives": _dipole_derivatives,
}


class Potential:
    """A trained model: energies, forces and electronic properties of molecules.

    Immutable and cheap to share: calculators on one potential share compiled code.
    """

    def __init__(
        self,
        metadata: ModelMetadata,
        params: Params,
        dtype: Any = "float32",
        *,
        path: Path | None = None,
    ) -> None:
        self.metadata = metadata
        self.config = metadata.config
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.dtype("float32"), np.dtype("float64")):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype}")
        self.params = jax.tree.map(lambda x: np.asarray(x, self.dtype), params)
        self.path = path
        self.elements = metadata.elements
        self.states = tuple(record.state for record in metadata.states)
        self._twins: dict[np.dtype[Any], Potential] = {self.dtype: self}
        self._reset()

    def _reset(self) -> None:
        self._compiled: dict[str, Any] = {}
        self._device_params: Any = None
        table = np.full(len(chemical_symbols), np.nan)
        for symbol, energy in self.metadata.element_energies.items():
            table[chemical_symbols.index(symbol)] = energy
        self._element_energies = table
        self._state_energies = {
            record.state: record.reference_energy for record in self.metadata.states
        }

    def __getstate__(self) -> dict[str, Any]:
        """Leave compiled code behind when copied to another process."""
        keys = ("metadata", "config", "dtype", "params", "path", "elements", "states")
        return {key: self.__dict__[key] for key in keys}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore, ready to compile again."""
        self.__dict__.update(state)
        self._twins = {self.dtype: self}
        self._reset()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Potential":
        """Return itself: nothing in it changes."""
        return self

    def __repr__(self) -> str:
        name = self.metadata.name or "untitled"
        return f"Potential({name!r}, elements={symbols(self.elements)}, {self.dtype})"

    def astype(self, dtype: Any) -> "Potential":
        """Return this potential computing in ``dtype`` ("float32" or "float64")."""
        dtype = np.dtype(dtype)
        if dtype not in self._twins:
            twin = Potential(self.metadata, self.params, dtype, path=self.path)
            twin._twins = self._twins
            self._twins[dtype] = twin
        return self._twins[dtype]

    @property
    def num_compilations(self) -> int:
        """Compiled programs so far, one per kind of result and size class."""
        return sum(
            program._cache_size()
            for twin in self._twins.values()
            for program in twin._compiled.values()
        )

    def save(self, path: "str | Path") -> Path:
        """Write ``model.json`` and ``weights.safetensors`` into the folder ``path``."""
        from physnet_ase.checkpoint import save_potential

        return save_potential(self, path)

    def reference_energy(self, numbers: Any, state: Any) -> float:
        """E_ref = Σ e[Z] + c[Q, M] in eV, float64; per-atom energies share c evenly."""
        return float(np.sum(self.reference_energies(numbers, state)))

    def reference_energies(self, numbers: Any, state: Any) -> np.ndarray:
        """Per-atom references in eV, shape (atoms,), float64."""
        numbers = np.asarray(numbers)
        constant = self._state_constant(as_state(state))
        return self._element_energies[numbers] + constant / len(numbers)

    def _state_constant(self, state: ElectronicState) -> float:
        """c of the state, or of the seen state nearest in spin at the same charge."""
        if state in self._state_energies:
            return self._state_energies[state]
        near = [seen for seen in self.states if seen.charge == state.charge]
        if not near:
            return 0.0
        closest = min(near, key=lambda s: abs(s.multiplicity - state.multiplicity))
        return self._state_energies[closest]

    def check(
        self, numbers: Any, state: ElectronicState, *, allow_unseen_states: bool = False
    ) -> None:
        """Raise unless these atoms in this state are what the model was trained on.

        Raises:
            ValueError: An element or a state the model has not seen, a state outside
                its ranges, or one that is physically impossible.
        """
        numbers = np.asarray(numbers)
        unknown = ~np.isin(numbers, self.elements)
        if unknown.any():
            atom = int(np.flatnonzero(unknown)[0])
            raise ValueError(
                f"atom {atom} is {chemical_symbols[numbers[atom]]}, which the model "
                f"has not seen; it knows {symbols(self.elements)}. Retrain with this "
                "element"
            )
        check_possible(numbers, state)
        if state in self._state_energies:
            return
        seen = "; ".join(str(s) for s in sorted(self.states))
        low, high = self.config.charge_range
        spin_low, spin_high = self.config.spin_range
        inside = (
            low <= state.charge <= high and spin_low <= state.multiplicity <= spin_high
        )
        if not inside:
            raise ValueError(
                f"{state} lies outside the model's ranges (charge {low}..{high}, "
                f"multiplicity {spin_low}..{spin_high}); seen in training: {seen}"
            )
        if not allow_unseen_states:
            raise ValueError(
                f"the model was not trained on {state}; seen in training: {seen}. "
                "Retrain with this state, or pass allow_unseen_states=True to "
                "extrapolate"
            )
        warnings.warn(
            f"the model was not trained on {state}; its energy is an extrapolation "
            f"(seen in training: {seen})",
            UserWarning,
            stacklevel=3,
        )

    def run(self, graph: Graph, kind: str) -> dict[str, Any]:
        """Run one compiled program on a padded graph; JAX arrays without references.

        Args:
            graph: NumPy graph; its floats are cast to the potential's dtype.
            kind: "terms", "forces", "stress" (adds the virial), "hessian" or
                "dipole_derivatives".
        """
        with jax.enable_x64(self.dtype == np.float64):
            if self._device_params is None:
                self._device_params = jax.device_put(self.params)
            if kind not in self._compiled:
                program, config = _PROGRAMS[kind], self.config
                self._compiled[kind] = jax.jit(
                    lambda params, graph: program(config, params, graph)
                )
            cast = graph._replace(
                positions=graph.positions.astype(self.dtype),
                shifts=graph.shifts.astype(self.dtype),
                labels=None,
            )
            return self._compiled[kind](self._device_params, cast)

    def evaluate(
        self,
        atoms: Any,
        states: Sequence[Any] | None = None,
        properties: Sequence[str] = ("energy", "forces"),
        dtype: Any = None,
        *,
        allow_unseen_states: bool = False,
    ) -> Any:
        """Evaluate one or many structures in one or many states, in few compilations.

        Args:
            atoms: One ``ase.Atoms`` or a list of them.
            states: ``None`` takes each structure's own state (``atoms.info`` and so
                on); a list of states evaluates every structure in each of them.
            properties: Any of energy, forces, stress, dipole, charges,
                spin_populations, energies, features, hessian, dipole_derivatives.
                Energies in eV, lengths in Å, charges in e. Energy alone runs no
                backward pass.
            dtype: "float32" or "float64" for this call.
            allow_unseen_states: Turn the refusal of an unseen state into a warning.

        Returns:
            ``states=None``: one result for one Atoms, else a list of results.
            ``states=[s1, …]``: ``result[i][j]`` is structure i in state j (for one
            Atoms: ``result[j]``).

        Raises:
            ValueError: Unknown property, element or state, or a bad structure.
        """
        from physnet_ase.batch_evaluation import evaluate

        potential = self if dtype is None else self.astype(dtype)
        return evaluate(
            potential,
            atoms,
            states,
            properties,
            allow_unseen_states=allow_unseen_states,
        )
