"""A trained model: what it knows, what it refuses, and its compiled programs."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ase.data import chemical_symbols

from physnet_ase.compilation import LOCK, compile_program
from physnet_ase.graph import Graph
from physnet_ase.metadata import ModelMetadata, symbols
from physnet_ase.programs import PROGRAMS
from physnet_ase.state import ElectronicState, as_state, check_possible
from physnet_ase.terms import Params


def _sized(graph: Graph) -> tuple[Any, ...]:
    """One array of each length that a graph has."""
    return graph.positions, graph.senders, graph.long_senders, graph.total_charge


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
        self._compiled: dict[tuple[Any, ...], Any] = {}
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
        return sum(len(twin._compiled) for twin in self._twins.values())

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

    def prepare(self, graph: Graph) -> Graph:
        """Copy a graph to the device in this potential's dtype, for repeated use."""
        with jax.enable_x64(self.dtype == np.float64):
            return jax.device_put(self._cast(graph))

    def run(self, graph: Graph, kind: str) -> dict[str, Any]:
        """Run one compiled program on a padded graph; JAX arrays without references.

        Args:
            graph: NumPy graph, cast to the potential's dtype, or a prepared one.
            kind: "terms", "forces", "stress" (adds the virial), "hessian" or
                "dipole_derivatives".
        """
        with jax.enable_x64(self.dtype == np.float64):
            graph = self._cast(graph)
            sizes = (kind, *(array.shape[0] for array in _sized(graph)))
            program = self._compiled.get(sizes) or self._compile(sizes, graph)
            return program(self._device_params, graph)

    def _cast(self, graph: Graph) -> Graph:
        floats = {
            name: array if array.dtype == self.dtype else np.asarray(array, self.dtype)
            for name, array in (
                ("positions", graph.positions),
                ("shifts", graph.shifts),
            )
        }
        return graph._replace(**floats, labels=None)

    def _compile(self, sizes: tuple[Any, ...], graph: Graph) -> Any:
        """Compile the program of one kind and size class, once for all threads."""
        compute, config = PROGRAMS[sizes[0]], self.config

        def program(params: Params, graph: Graph) -> dict[str, Any]:
            return compute(config, params, graph)

        program.__name__ = f"physnet_{sizes[0]}"  # seen in profiles, names files
        with LOCK:
            if self._device_params is None:
                self._device_params = jax.device_put(self.params)
            if sizes not in self._compiled:
                lowered = jax.jit(program).lower(self._device_params, graph)
                self._compiled[sizes] = compile_program(lowered, program.__name__)
            return self._compiled[sizes]

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
