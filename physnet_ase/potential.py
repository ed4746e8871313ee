"""A trained model: what it knows, what it refuses, and what it gives."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols

from physnet_ase.checkpoint import (
    MODEL_FILE,
    ModelMetadata,
    Params,
    read_model,
    symbols,
    write_model,
)
from physnet_ase.evaluation import check_properties
from physnet_ase.familiarity import Familiarity, familiarity_of
from physnet_ase.graph import Graph
from physnet_ase.molecules import Molecules, concatenate
from physnet_ase.neighbors import check_distances, evaluation_pairs, without_vacuum
from physnet_ase.network.levels import model_of_level
from physnet_ase.parts import evaluate_molecules
from physnet_ase.programs import Programs
from physnet_ase.state import (
    ElectronicState,
    as_state,
    check_possible,
    resolve_state,
)

if TYPE_CHECKING:
    from ase import Atoms


def pretrained_names() -> list[str]:
    """Names that :func:`load_potential` accepts besides paths."""
    folder = resources.files("physnet_ase") / "pretrained"
    return sorted(
        item.name for item in folder.iterdir() if (item / MODEL_FILE).is_file()
    )


def load_potential(path_or_name: "str | Path") -> "Potential":
    """Load a model directory, or a pretrained model by its name.

    Args:
        path_or_name: A directory with ``model.json`` and ``weights.safetensors``, or
            one of :func:`pretrained_names`. A directory of that name goes first. Behind
            an @ may stand one of its levels of theory, see ``Potential.level``.

    Raises:
        FileNotFoundError: No such directory or name, or a file of it is missing.
        ValueError: A file is damaged, see ``checkpoint.read_model``, or the model has
            no such level.
    """
    path = Path(path_or_name)
    if not path.exists() and "@" in str(path_or_name):
        model, _, level = str(path_or_name).rpartition("@")
        return load_potential(model).level(level)
    if not path.exists():
        names = pretrained_names()
        if str(path_or_name) not in names:
            raise FileNotFoundError(
                f"no model at {str(path_or_name)!r}: neither a directory nor a "
                f"pretrained model; pretrained: {', '.join(names) or 'none'}"
            )
        bundled = resources.files("physnet_ase") / "pretrained" / str(path_or_name)
        path = Path(str(bundled))
    return Potential(*read_model(path), path=path)


def absolute_name(model: str, folder: Path) -> str:
    """A model directory, or DIRECTORY@LEVEL, by its full path; other names as they are.

    Args:
        model: As :func:`load_potential` takes it.
        folder: From where a relative path counts.
    """
    directory, at, level = model, "", ""
    if not (folder / model).exists():
        before, at, level = model.rpartition("@")
        directory = before or model
    path = folder / directory
    return f"{path.resolve()}{at}{level}" if path.exists() else model


class Potential:
    """A trained model: energies, forces and electronic properties of molecules.

    Immutable and cheap to share: calculators on one potential share compiled code.

    Args:
        metadata: What the model says of itself.
        params: Its weights.
        dtype: Precision of the network.
        path: Where it was read from.
        level: Number of the level of theory that it answers at, of those it has.
    """

    def __init__(
        self,
        metadata: ModelMetadata,
        params: Params,
        dtype: Any = "float32",
        *,
        path: Path | None = None,
        level: int = 0,
    ) -> None:
        self._whole, self._level = (metadata, params), level
        config, params = model_of_level(metadata.config, params, level)
        self.metadata = metadata = metadata.of_level(level)
        self.config = config
        self.path = path
        self.programs = Programs(config, params, dtype)
        self.references = metadata.references
        self.elements = metadata.elements
        self.states = tuple(record.state for record in metadata.states)
        self._twins: dict[np.dtype[Any], Potential] = {self.dtype: self}
        self._levels: dict[int, Potential] = {level: self}
        self._said_periodic = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave compiled code behind when copied to another process."""
        return _rebuilt, (*self._whole, self.dtype.name, self.path, self._level)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Potential":
        """Return itself: nothing in it changes."""
        return self

    def __repr__(self) -> str:
        name = self.metadata.name or "untitled"
        return f"Potential({name!r}, elements={symbols(self.elements)}, {self.dtype})"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the network; references and sums are float64."""
        return self.programs.dtype

    @property
    def params(self) -> Params:
        """Weights as NumPy arrays."""
        return self.programs.params

    @property
    def num_members(self) -> int:
        """How many answers each answer is the mean of: the heads."""
        return self.config.num_heads

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels of theory that the model can answer at; the first is its default."""
        metadata = self._whole[0]
        return tuple(metadata.levels_of_theory[: metadata.config.num_levels])

    def level(self, name: str) -> "Potential":
        """This model at another level of theory.

        Args:
            name: One of :attr:`levels`, or a part of it that no other one has.

        Raises:
            ValueError: No level, or several, of that name.
        """
        found = [i for i, known in enumerate(self.levels) if known == name]
        found = found or [i for i, known in enumerate(self.levels) if name in known]
        if len(found) != 1:
            known = "; ".join(self.levels) or "none that it names"
            raise ValueError(
                f"level {name!r} is {'ambiguous' if found else 'unknown'}; the "
                f"model's levels of theory are: {known}"
            )
        if found[0] not in self._levels:
            other = Potential(*self._whole, self.dtype, path=self.path, level=found[0])
            other._levels = self._levels
            self._levels[found[0]] = other
        return self._levels[found[0]]

    def astype(self, dtype: Any) -> "Potential":
        """Return this potential computing in ``dtype`` ("float32" or "float64")."""
        dtype = np.dtype(dtype)
        if dtype not in self._twins:
            twin = Potential(*self._whole, dtype, path=self.path, level=self._level)
            twin._twins = self._twins
            self._twins[dtype] = twin
        return self._twins[dtype]

    @property
    def num_compilations(self) -> int:
        """Compiled programs so far, one per kind of result and size class."""
        return sum(len(twin.programs) for twin in self._twins.values())

    def save(self, path: "str | Path") -> Path:
        """Write ``model.json`` and ``weights.safetensors`` into the folder ``path``.

        A model that answers at its first level of theory is written with all of them,
        any other one alone: what is loaded again answers as this one does.
        """
        if self._level == 0:
            return write_model(path, *self._whole)
        _, alone = model_of_level(self._whole[0].config, self._whole[1], self._level)
        return write_model(path, self.metadata, alone)

    def reference_energy(self, numbers: Any, state: Any) -> float:
        """E_ref = Σ e[Z] + c[Q, M] in eV, float64; per-atom energies share c evenly."""
        return float(np.sum(self.references.of_atoms(numbers, as_state(state))))

    def run(self, graph: Graph, kind: str) -> dict[str, Any]:
        """Run one compiled program on a padded graph, see ``programs.Programs.run``."""
        return self.programs.run(graph, kind)

    def check(
        self,
        numbers: Any,
        state: ElectronicState,
        *,
        allow_unseen_states: bool = False,
        periodic: bool = False,
    ) -> None:
        """Raise unless these atoms in this state are what the model was trained on.

        Args:
            numbers: Atomic numbers.
            state: Charge and multiplicity.
            allow_unseen_states: Warn about a state inside the ranges of the model.
            periodic: They have periodic images: said once where none was seen.

        Raises:
            ValueError: An element or a state the model has not seen, a state outside
                its ranges, or one that is physically impossible.
        """
        if periodic and self.metadata.periodic_structures == 0:
            self._say_periodic()
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
        if state in self.states:
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

    def _say_periodic(self) -> None:
        if any(twin._said_periodic for twin in self._twins.values()):
            return
        self._said_periodic = True
        warnings.warn(
            f"the model {self.metadata.name!r} was not trained on periodic structures; "
            "what it says of a condensed phase is an extrapolation",
            UserWarning,
            stacklevel=4,
        )

    def familiarity(self, atoms: "Atoms | Sequence[Atoms]") -> Any:
        """How well the model knows structures in their own states.

        Args:
            atoms: One ``ase.Atoms`` or a list of them.

        Returns:
            A :class:`~physnet_ase.familiarity.Familiarity` for each, with a score per
            atom; above 1 the model has seen nothing like it. None where a model does
            not say what it was trained on.

        Raises:
            ValueError: A bad structure or state.
        """
        single = hasattr(atoms, "positions")
        several: list[Any] = [atoms] if single else list(atoms)
        known = self.known(Molecules.from_atoms(several)) if several else []
        verdicts: list[Familiarity | None] = [*known] or [None] * len(several)
        return verdicts[0] if single else verdicts

    def known(self, molecules: Molecules) -> list[Familiarity]:
        """Familiarity of each molecule; empty where the model has no record."""
        environments = self.metadata.environments
        if environments is None:
            return []
        return familiarity_of(environments, molecules, self.config.cutoff)

    def evaluate(
        self,
        atoms: "Atoms | Sequence[Atoms]",
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
                spin_populations, energies, features, hessian, dipole_derivatives,
                forces_std. Energies in eV, lengths in Å, charges in e. Energy alone
                runs no backward pass, forces_std one for each of the model's heads.
            dtype: "float32" or "float64" for this call.
            allow_unseen_states: Turn the refusal of an unseen state into a warning.

        Returns:
            ``states=None``: one result for one Atoms, else a list of results.
            ``states=[s1, …]``: ``result[i][j]`` is structure i in state j (for one
            Atoms: ``result[j]``).

        Raises:
            ValueError: Unknown property, element or state, or a bad structure.
        """
        single = hasattr(atoms, "positions")
        several: list[Any] = [atoms] if single else list(atoms)
        chosen = None if states is None else _listed(states)
        jobs, pairs, pbc = [], [], []
        for index, one in enumerate(several):
            try:
                for state in chosen or [resolve_state(one)]:
                    job = Molecules.from_atoms([one], [state])
                    pbc.append(job.values["pbc"][0])
                    jobs.append(without_vacuum(job, self.config.cutoff))
                    self.check(
                        one.numbers,
                        state,
                        allow_unseen_states=allow_unseen_states,
                        periodic=bool(jobs[-1].periodic[0]),
                    )
                found = evaluation_pairs(jobs[-1], self.config.cutoff)
                check_distances(jobs[-1], found)
                pairs += [found] * len(chosen or [None])
            except ValueError as error:
                if single:
                    raise
                raise ValueError(f"structure {index}: {error}") from error
        if not jobs:
            return []
        potential = self if dtype is None else self.astype(dtype)
        molecules = concatenate(jobs)
        molecules.rows[:] = np.repeat(np.arange(len(several)), len(chosen or [None]))
        if _scored.get():
            warn_unfamiliar(self.known(molecules), several, molecules.rows.tolist())
        wanted = check_properties(
            properties,
            np.array(pbc),
            molecules.periodic,
            config=self.config,
        )
        flat = evaluate_molecules(
            potential.programs, self.references, molecules, pairs, wanted
        )
        if chosen is None:
            return flat[0] if single else flat
        width = len(chosen)
        rows = [flat[i * width : (i + 1) * width] for i in range(len(several))]
        return rows[0] if single else rows


@contextmanager
def unfamiliar_is_fine() -> Iterator[None]:
    """Silence warnings of unfamiliar structures on the way to one that counts.

    ``Potential.evaluate`` does not even score them: it would be half of its time.
    """
    token = _scored.set(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".* is unfamiliar", category=UserWarning
            )
            yield
    finally:
        _scored.reset(token)


_scored = ContextVar("_scored", default=True)
"""Whether structures that are evaluated are scored for a warning."""


def warn_unfamiliar(
    verdicts: Sequence[Familiarity], structures: Sequence[Any], rows: Sequence[int]
) -> None:
    """Warn once of all structures that a model does not know; the first is described.

    Args:
        verdicts: Of each job.
        structures: The ``Atoms`` that were asked for.
        rows: Which of them each job is about.
    """
    strange = {int(r): v for v, r in zip(verdicts, rows, strict=False) if v.unfamiliar}
    if not strange:
        return
    first = min(strange)
    formula = structures[first].get_chemical_formula()
    # The same geometry in several states is one structure.
    different = {(str(s.symbols), s.positions.tobytes()) for s in structures}
    others = f" ({len(strange)} of {len(structures)} structures are)"
    warnings.warn(
        f"{formula} is unfamiliar: {strange[first].message}"
        f"{others if len(different) > 1 else ''}",
        UserWarning,
        stacklevel=3,
    )


def _rebuilt(
    metadata: ModelMetadata, params: Params, dtype: str, path: Any, level: int
) -> Potential:
    return Potential(metadata, params, dtype, path=path, level=level)


def _listed(states: Any) -> list[ElectronicState]:
    try:
        listed = [as_state(state) for state in states]
    except TypeError:  # a single state, or entries that are no pairs
        listed = []
    if not listed:
        raise ValueError(
            "states must be a non-empty list of states, each an ElectronicState or "
            f"(charge, multiplicity), got {states!r}"
        )
    return listed
