"""The potential as an ASE calculator: charge and spin from the atoms, never stale."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
)
from ase.calculators.mixing import SumCalculator

from physnet_ase.committee import Committee, Model
from physnet_ase.evaluation import NO_SPREAD, Batch, Result
from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import PairCache, check_distances, without_vacuum
from physnet_ase.potential import Potential, warn_unfamiliar
from physnet_ase.state import (
    ElectronicState,
    as_integer,
    resolve_state,
    state_key,
)


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
    ``spin_multiplicity``, ``multiplicity``, ``mult`` or ``spin``, all 2S+1; more names
    in ``state.STATE_KEYS``), else from the arguments here, else from the sums of
    ``initial_charges`` and ``initial_magmoms``, else it is neutral with the lowest
    possible multiplicity (a free atom: its ground state). Changing any of these, or a
    setting, invalidates earlier results. Wrappers that compare atoms themselves, such
    as ASE's ``SumCalculator``, do not see ``info``: use :class:`SumOfCalculators`.

    One program per size class gives every property at once, whatever is asked first;
    for energies alone of many structures use ``Potential.evaluate``. Units are ASE's:
    eV, Å, e. The dipole is about the coordinate origin and exists for molecules only,
    the stress for three periodic directions only, ``magmoms`` (atomic spin populations)
    for models trained on them. ``fragments`` holds the atoms and the state of each part
    of a system whose parts are out of each other's sight, else nothing.

    With several potentials results are means over this committee, and ``results`` holds
    ``energy_std``, ``forces_std`` and ``charges_std`` (how far its members disagree),
    ``member_energies`` and so on besides; see
    :class:`physnet_ase.committee.Committee`. A potential with several heads is a
    committee by itself, whose ``get_forces_std`` has to be asked.

    Args:
        potential_or_path: A potential, a model directory, a pretrained name, or a list
            of these: a committee.
        charge: Total charge in e of atoms whose ``info`` holds none.
        multiplicity: 2S+1 of atoms whose ``info`` holds none.
        dtype: "float32" or "float64"; a potential that is float64 already stays so.
        strict: Refuse to guess a state that nothing names, and molecules unlike those
            of the training data, of which there is a warning otherwise.
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
        potential_or_path: Model | Sequence[Model],
        charge: int | None = None,
        multiplicity: int | None = None,
        *,
        dtype: Any = "float32",
        strict: bool = False,
        allow_unseen_states: bool = False,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise TypeError(_unknown_settings(unknown, self.default_parameters))
        self._committee = Committee.of(potential_or_path)
        self._pair_cache = PairCache(
            self._committee.cutoff, finest=self._committee.finest
        )
        self._computed_for: tuple[Any, ...] = ()
        self.fragments: tuple[tuple[np.ndarray, ElectronicState], ...] = ()
        self._prepared: tuple[tuple[Any, ...], Batch] | None = None
        super().__init__(  # type: ignore[no-untyped-call]
            charge=charge,
            multiplicity=multiplicity,
            dtype="float64" if self._committee.dtype == np.float64 else dtype,
            strict=strict,
            allow_unseen_states=allow_unseen_states,
        )
        if not self._committee.spin_populations:
            self.implemented_properties = [
                name for name in self.implemented_properties if name != "magmoms"
            ]

    @property
    def potential(self) -> Potential | Committee:
        """What this calculator evaluates, in its precision; several are a committee."""
        members = self._members().members
        return members[0] if len(members) == 1 else self._members()

    @property
    def num_compilations(self) -> int:
        """Programs compiled so far for these potentials, by all their calculators."""
        return self._committee.num_compilations

    def copy(self) -> "PhysNetCalculator":
        """Return a calculator with the same potential and settings and no results."""
        return PhysNetCalculator(self._committee.members, **self.parameters)

    def set(self, **settings: Any) -> dict[str, Any]:
        """Change settings and forget earlier results; returns what changed.

        Raises:
            ValueError: An unknown setting or a value that is not allowed.
        """
        unknown = sorted(settings.keys() - self.default_parameters.keys())
        if unknown:
            raise ValueError(_unknown_settings(unknown, self.default_parameters))
        for name in ("charge", "multiplicity"):
            if settings.get(name) is not None:
                settings[name] = as_integer(settings[name], name)
        if settings.get("multiplicity") is not None:
            ElectronicState(0, settings["multiplicity"])
        if "dtype" in settings:
            settings["dtype"] = self._committee.astype(settings["dtype"]).dtype.name
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

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """List what changed since the last calculation, electronic state included.

        ASE looks at arrays and cell only, never at ``atoms.info``, and takes its time.
        Initial charges and magnetic moments matter as far as they change the state.
        Nothing is tolerated, so ``tol`` is not used.
        """
        old = self.atoms
        if old is None or len(old) != len(atoms):
            return list(all_changes)
        compared = {
            "positions": (old.positions, atoms.positions),
            "numbers": (old.numbers, atoms.numbers),
            "cell": (old.cell.array, atoms.cell.array),
            "pbc": (old.pbc, atoms.pbc),
        }
        changes = [n for n, (a, b) in compared.items() if not np.array_equal(a, b)]
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
        if name == "magmoms" and not self._committee.spin_populations:
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
        """Fill ``results`` with everything there is; called by ASE.

        Raises:
            PropertyNotImplementedError: The stress without three periodic directions,
                or the dipole along a periodic one.
            ValueError: A state, element or structure that cannot be evaluated.
        """
        atoms = self._atoms_or_last(atoms)
        batch = self._prepare(atoms)
        pbc, has_images = atoms.pbc, bool(batch.molecules.periodic[0])
        if "stress" in properties and not pbc.all():
            raise PropertyNotImplementedError(
                f"stress needs three periodic directions, got pbc={pbc.tolist()}"
            )
        if "dipole" in properties and has_images:
            raise PropertyNotImplementedError(
                f"no dipole along periodic directions, got pbc={pbc.tolist()}"
            )
        wanted = ["energy", "energies", "charges", "forces"]
        if pbc.all():
            wanted.append("stress")
        if not has_images:
            wanted.append("dipole")
        if self._committee.spin_populations:
            wanted.append("spin_populations")
        result = self._members().run(batch, wanted)
        self.results, self.fragments = _ase_results(result), result.fragments
        self.atoms = atoms.copy()
        self._computed_for = self._key(batch.states[0])

    def get_hessian(self, atoms: Atoms | None = None) -> np.ndarray:
        """Second derivatives of the energy in eV/Å², shape (3·atoms, 3·atoms).

        Raises:
            ValueError: A state, element or structure that cannot be evaluated.
        """
        batch = self._prepare(self._atoms_or_last(atoms))
        result = self._members().run(batch, ("hessian",))
        hessian: np.ndarray = result.hessian
        return hessian

    def get_forces_std(self, atoms: Atoms | None = None) -> np.ndarray:
        """How far the forces of a committee's members differ, (atoms, 3) eV/Å.

        A backward pass for each head of a model, so no part of every calculation.

        Raises:
            ValueError: There is one model of one head; or a state, element or structure
                that cannot be evaluated.
        """
        if self._committee.num_members == 1:
            raise ValueError(NO_SPREAD)
        batch = self._prepare(self._atoms_or_last(atoms))
        result = self._members().run(batch, ("forces_std",))
        deviation: np.ndarray = result.forces_std
        return deviation

    def _check_familiarity(self, atoms: Atoms, molecule: Molecules) -> None:
        """Warn of a molecule unlike the training data; refuse it where strict."""
        verdicts = self._committee.known(molecule)
        if not self.parameters["strict"]:
            warn_unfamiliar(verdicts, [atoms], [0])
        elif verdicts and verdicts[0].unfamiliar:
            raise ValueError(
                f"{atoms.get_chemical_formula()}: {verdicts[0].message}; strict=True "
                "refuses it"
            )

    def _atoms_or_last(self, atoms: Atoms | None) -> Atoms:
        if atoms is not None:
            return atoms
        if self.atoms is None:
            raise ValueError("the calculator has no atoms yet; pass atoms")
        last: Atoms = self.atoms
        return last

    def _members(self) -> Committee:
        """The committee in the precision of the settings."""
        if self._committee.dtype.name != self.parameters["dtype"]:
            self._committee = self._committee.astype(self.parameters["dtype"])
        return self._committee

    def _prepare(self, atoms: Atoms) -> Batch:
        """Everything an evaluation needs, checked; the last batch where it fits."""
        state = self.resolve_state(atoms)
        key = self._key(state)
        molecule = Molecules.from_atoms([atoms], [state])
        molecule = without_vacuum(molecule, self._committee.cutoff)
        pairs = self._pair_cache.pairs(molecule)
        kept, batch = self._prepared or ((), None)
        if batch is not None and kept == key and batch.fits(molecule, pairs):
            check_distances(molecule, pairs)
            batch.move(molecule)
            return batch
        self._committee.check(
            atoms.numbers,
            state,
            allow_unseen_states=key[-1],
            periodic=bool(molecule.periodic[0]),
        )
        check_distances(molecule, pairs)
        self._check_familiarity(atoms, molecule)
        batch = Batch(molecule, pairs)
        self._prepared = key, batch
        return batch


class SumOfCalculators(SumCalculator):
    """ASE's sum of calculators, which asks its members whether the atoms changed.

    ``ase.calculators.mixing.SumCalculator`` compares arrays and cell only: where the
    charge or the multiplicity in ``atoms.info`` changes, it returns the old state's
    energy. This one does not.

    Args:
        calcs: Calculators whose energies, forces and stresses are added.
    """

    def __init__(self, calcs: Sequence[Any]) -> None:
        super().__init__(calcs)  # type: ignore[no-untyped-call]

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """List what changed for any of the members."""
        changes = list(super().check_state(atoms, tol))  # type: ignore[no-untyped-call]
        for member in self.mixer.calcs:
            for change in member.check_state(atoms):
                if change not in changes:
                    changes.append(change)
        return changes


def _unknown_settings(unknown: Iterable[str], allowed: Iterable[str]) -> str:
    """What to say about settings that do not exist."""
    meant = {"charge": "charge", "multiplicity": "multiplicity"}
    hints = [
        f"{name} is called {meant[kind]} here (2S+1)"
        if kind == "multiplicity"
        else f"{name} is called charge here"
        for name in unknown
        if (kind := state_key(name)) in meant
    ]
    hint = f"; {'; '.join(hints)}" if hints else ""
    return f"unknown settings {sorted(unknown)}; allowed: {list(allowed)}{hint}"


def _ase_results(result: Result) -> dict[str, Any]:
    """Results under ASE's names, float64."""
    values = {**vars(result)}
    del values["state"], values["fragments"]
    if "spin_populations" in values:
        values["magmoms"] = values.pop("spin_populations")
    values["energy"] = values["free_energy"] = np.float64(values["energy"])
    return values
