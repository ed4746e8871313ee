"""The potential as an ASE calculator: charge and spin from the atoms, never stale."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
)

from physnet_ase.batch_evaluation import Result, compute
from physnet_ase.checkpoint import load_potential
from physnet_ase.neighbors import PairCache, Pairs, Structure, check_distances
from physnet_ase.potential import Potential
from physnet_ase.state import ElectronicState, as_integer, resolve_state


class _Setting:
    """A setting as an attribute; assigning to it forgets earlier results."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, calculator: Any, owner: type | None = None) -> Any:
        return self if calculator is None else calculator.parameters[self.name]

    def __set__(self, calculator: Any, value: Any) -> None:
        calculator.set(**{self.name: value})


class PhysNetCalculator(Calculator):
    """ASE calculator of a charge- and spin-aware potential.

    The electronic state of each call comes from ``atoms.info`` (``charge``;
    ``spin_multiplicity``, ``multiplicity``, ``mult`` or ``spin``, all 2S+1), else from
    the arguments here, else from the sums of ``initial_charges`` and
    ``initial_magmoms``, else it is neutral with the lowest possible multiplicity.
    Changing any of these, or a setting, invalidates earlier results.

    Energy alone runs no backward pass; asking for forces gives every property at once.
    Units are ASE's: eV, Å, e. The dipole is about the coordinate origin and exists for
    molecules only, the stress for three periodic directions only, ``magmoms`` (atomic
    spin populations) for models trained on them.

    Args:
        potential_or_path: A potential, a model directory, or a pretrained name.
        charge: Total charge in e of atoms whose ``info`` holds none.
        multiplicity: 2S+1 of atoms whose ``info`` holds none.
        dtype: "float32" or "float64"; a potential that is float64 already stays so.
        strict: Refuse to guess a state that nothing names.
        allow_unseen_states: Warn, instead of refusing, when the model was not trained
            on the state.

    Raises:
        ValueError: A setting that is not allowed; while calculating, an impossible or
            unseen state, an unknown element, or a bad structure.
    """

    implemented_properties = [  # noqa: RUF012 (declared so by ASE)
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "dipole",
        "charges",
        "magmoms",
    ]
    default_parameters = {  # noqa: RUF012 (declared so by ASE)
        "charge": None,
        "multiplicity": None,
        "dtype": "float32",
        "strict": False,
        "allow_unseen_states": False,
    }
    charge = _Setting()
    multiplicity = _Setting()
    dtype = _Setting()
    strict = _Setting()
    allow_unseen_states = _Setting()

    def __init__(
        self,
        potential_or_path: Potential | str | PathLike[str],
        charge: int | None = None,
        multiplicity: int | None = None,
        *,
        dtype: Any = "float32",
        strict: bool = False,
        allow_unseen_states: bool = False,
    ) -> None:
        self._loaded = (
            potential_or_path
            if isinstance(potential_or_path, Potential)
            else load_potential(str(potential_or_path))
        )
        self._pair_cache = PairCache(self._loaded.config.cutoff)
        self._computed_for: tuple[Any, ...] = ()
        super().__init__(  # type: ignore[no-untyped-call]
            charge=charge,
            multiplicity=multiplicity,
            dtype="float64" if self._loaded.dtype == np.float64 else dtype,
            strict=strict,
            allow_unseen_states=allow_unseen_states,
        )
        if not self._loaded.config.spin_populations:
            self.implemented_properties = [
                name for name in self.implemented_properties if name != "magmoms"
            ]

    @property
    def potential(self) -> Potential:
        """The potential behind this calculator, in the calculator's precision."""
        return self._loaded.astype(self.parameters["dtype"])

    @property
    def num_compilations(self) -> int:
        """Programs compiled so far for this potential, by all its calculators."""
        return self._loaded.num_compilations

    def copy(self) -> "PhysNetCalculator":
        """Return a calculator with the same potential and settings and no results."""
        return PhysNetCalculator(self.potential, **self.parameters)

    def set(self, **settings: Any) -> dict[str, Any]:
        """Change settings and forget earlier results; returns what changed.

        Raises:
            ValueError: An unknown setting or a value that is not allowed.
        """
        unknown = sorted(settings.keys() - self.default_parameters.keys())
        if unknown:
            raise ValueError(
                f"unknown settings {unknown}; allowed: {list(self.default_parameters)}"
            )
        for name in ("charge", "multiplicity"):
            if settings.get(name) is not None:
                settings[name] = as_integer(settings[name], name)
        if settings.get("multiplicity") is not None:
            ElectronicState(0, settings["multiplicity"])
        if "dtype" in settings:
            settings["dtype"] = self._loaded.astype(settings["dtype"]).dtype.name
        changed = super().set(**settings)  # type: ignore[no-untyped-call]
        if changed:
            self.reset()  # type: ignore[no-untyped-call]
        return changed

    def resolve_state(self, atoms: Atoms) -> ElectronicState:
        """Return the state in which this calculator sees ``atoms``.

        Raises:
            ValueError: See ``physnet_ase.state.resolve_state``.
        """
        settings = self.parameters
        return resolve_state(
            atoms,
            settings["charge"],
            settings["multiplicity"],
            strict=settings["strict"],
        )

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """List what changed since the last calculation, electronic state included.

        ASE compares arrays and cell only; it never looks at ``atoms.info``.
        """
        found = super().check_state(atoms, tol)  # type: ignore[no-untyped-call]
        changes: list[str] = list(found)
        if not changes and self._key(self.resolve_state(atoms)) != self._computed_for:
            changes.append("state")
        return changes

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """Return one property, computing it if it is not known.

        Raises:
            PropertyNotImplementedError: This model or structure does not have it.
        """
        if name == "magmoms" and not self._loaded.config.spin_populations:
            raise PropertyNotImplementedError(
                "magmoms need a model trained on spin populations"
            )
        # Without atoms ASE means the last ones and skips every check; settings may
        # have changed since.
        return super().get_property(  # type: ignore[no-untyped-call]
            name, self.atoms if atoms is None else atoms, allow_calculation
        )

    def _key(self, state: ElectronicState) -> tuple[Any, ...]:
        settings = self.parameters
        return state, settings["dtype"], settings["allow_unseen_states"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results`` with at least ``properties``; called by ASE.

        Raises:
            PropertyNotImplementedError: The stress without three periodic directions,
                or the dipole along a periodic one.
            ValueError: A state, element or structure that cannot be evaluated.
        """
        atoms = self._atoms_or_last(atoms)
        state, structure, pairs = self._prepare(atoms)
        periodic = structure.pbc
        if "stress" in properties and not periodic.all():
            raise PropertyNotImplementedError(
                f"stress needs three periodic directions, got pbc={periodic.tolist()}"
            )
        if "dipole" in properties and periodic.any():
            raise PropertyNotImplementedError(
                f"no dipole along periodic directions, got pbc={periodic.tolist()}"
            )
        wanted = ["energy", "energies", "charges"]
        if not periodic.any():
            wanted.append("dipole")
        if self._loaded.config.spin_populations:
            wanted.append("spin_populations")
        # One program more for forces, one for the stress: the fewer kinds of request,
        # the fewer compilations.
        if "forces" in properties or "stress" in properties:
            wanted += ["forces", "stress"] if periodic.all() else ["forces"]
        [result] = compute(self.potential, [structure], [state], [pairs], wanted)
        if system_changes:
            self.results = {}
        self.atoms = atoms.copy()
        self._computed_for = self._key(state)
        self.results.update(_ase_results(result, wanted))

    def get_hessian(self, atoms: Atoms | None = None) -> np.ndarray:
        """Second derivatives of the energy in eV/Å², shape (3·atoms, 3·atoms).

        Raises:
            ValueError: A state, element or structure that cannot be evaluated.
        """
        state, structure, pairs = self._prepare(self._atoms_or_last(atoms))
        [result] = compute(self.potential, [structure], [state], [pairs], ("hessian",))
        hessian: np.ndarray = result.hessian
        return hessian

    def _atoms_or_last(self, atoms: Atoms | None) -> Atoms:
        if atoms is not None:
            return atoms
        if self.atoms is None:
            raise ValueError("the calculator has no atoms yet; pass atoms")
        last: Atoms = self.atoms
        return last

    def _prepare(self, atoms: Atoms) -> tuple[ElectronicState, Structure, Pairs]:
        """Everything an evaluation needs, checked."""
        structure = Structure.from_atoms(atoms)
        state = self.resolve_state(atoms)
        self._loaded.check(
            structure.numbers,
            state,
            allow_unseen_states=self.parameters["allow_unseen_states"],
        )
        pairs = self._pair_cache.pairs(structure)
        check_distances(structure, pairs)
        return state, structure, pairs


def _ase_results(result: Result, names: Sequence[str]) -> dict[str, Any]:
    """Results under ASE's names, float64."""
    values = {name: getattr(result, name) for name in names}
    if "spin_populations" in values:
        values["magmoms"] = values.pop("spin_populations")
    values["energy"] = values["free_energy"] = np.float64(values["energy"])
    return values
