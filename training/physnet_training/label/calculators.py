"""Methods that label: tblite, PySCF, and any ASE calculator by its import path.

Calculators get total charge and multiplicity when they are made, start every
calculation from the same guess, so that a label never depends on what was calculated
before, and raise ``CalculationFailed`` instead of returning energies that did not
converge.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    BaseCalculator,
    CalculationFailed,
    Calculator,
    all_changes,
)
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from physnet_ase.state import ElectronicState
from physnet_ase.units import BOHR, HARTREE

TIGHT_BINDING = {"gfn2-xtb": "GFN2-xTB", "gfn1-xtb": "GFN1-xTB"}
"""Name on the command line -> tblite's."""
FUNCTIONAL = "wb97x"
"""Default functional of the method pyscf: that of the pretrained model."""
BASIS = "def2-svpd"
"""Default basis set of the method pyscf: that of the pretrained model."""
GRID_LEVEL = 3


@dataclass(frozen=True)
class Method:
    """How labels are calculated.

    Attributes:
        name: ``gfn2-xtb``, ``gfn1-xtb``, ``pyscf`` or ``package.module:factory``.
        functional: PySCF's name of the functional; only for ``pyscf``.
        basis: Basis set; only for ``pyscf``.
        grid_level: Integration grids, 0 to 9; only for ``pyscf``.
        density_fit: Fit the density; only for ``pyscf``.
        stability: Leave unstable solutions; only for ``pyscf``.
        level: Level of theory to store; empty: what the method is called.
        forces: Calculate them, too; without, a label takes half the time.

    Raises:
        ValueError: The name is unknown, or an option does not belong to the method.
        ImportError: What calculates is not installed.
    """

    name: str = "gfn2-xtb"
    functional: str | None = None
    basis: str | None = None
    grid_level: int | None = None
    density_fit: bool | None = None
    stability: bool | None = None
    level: str = ""
    forces: bool = True

    def __post_init__(self) -> None:
        """Fill in defaults and check that the method is there."""
        options = [f"--{name.replace('_', '-')}" for name in self._options()]
        if self.name == "pyscf":
            _require("pyscf", self.name)
            self._set(
                functional=(self.functional or FUNCTIONAL).lower(),
                basis=(self.basis or BASIS).lower(),
                grid_level=GRID_LEVEL if self.grid_level is None else self.grid_level,
                density_fit=self.density_fit is not False,
                stability=self.stability is not False,
            )
            self._check_pyscf()
        elif options:
            raise ValueError(
                f"{' and '.join(options)} belong to --method pyscf, not to {self.name}"
            )
        elif self.name in TIGHT_BINDING:
            _require("tblite", self.name)
        elif ":" in self.name:
            _load_factory(self.name)
        else:
            raise ValueError(
                f"unknown method {self.name!r}; use gfn2-xtb, gfn1-xtb, pyscf, or "
                "package.module:factory of an ASE calculator"
            )
        if not self.level:
            named = f"{self.functional}/{self.basis}" if self.functional else self.name
            known = TIGHT_BINDING.get(self.name)
            self._set(level=f"sp{known}" if known else named)

    def calculator(self, state: ElectronicState) -> BaseCalculator:
        """A new ASE calculator for one charge and multiplicity.

        Raises:
            TypeError: A factory returned something else.
        """
        if self.name in TIGHT_BINDING:
            return TightBinding(TIGHT_BINDING[self.name], state)
        if self.name == "pyscf":
            return DensityFunctional(state, **self._options())
        factory = _load_factory(self.name)
        made = factory(charge=state.charge, multiplicity=state.multiplicity)
        if not isinstance(made, BaseCalculator):
            raise TypeError(
                f"{self.name} must return an ASE calculator, it returned "
                f"{type(made).__name__}"
            )
        return made

    def check_elements(self, numbers: Iterable[int]) -> None:
        """Raise where it is known in advance that elements cannot be calculated.

        Raises:
            ValueError: The basis set lacks an element; the message names both.
        """
        if self.name != "pyscf":
            return
        from pyscf import gto

        for number in sorted(set(numbers)):
            symbol = chemical_symbols[number]
            try:
                gto.basis.load(self.basis, symbol)
            # PySCF's own exceptions, and KeyError or IndexError by the basis' format.
            except Exception as error:
                raise ValueError(
                    f"--basis {self.basis}: PySCF has no such basis set for {symbol}"
                ) from error

    def settings(self) -> dict[str, Any]:
        """Name and options, which labels must share to belong together."""
        alone = {} if self.forces else {"forces": False}
        return {"method": self.name, "level": self.level, **self._options(), **alone}

    def _options(self) -> dict[str, Any]:
        """Those of PySCF that are given."""
        names = ("functional", "basis", "grid_level", "density_fit", "stability")
        options = {name: getattr(self, name) for name in names}
        return {name: value for name, value in options.items() if value is not None}

    def versions(self) -> dict[str, str]:
        """Versions of what calculates."""
        packages = {"pyscf": "pyscf"} | dict.fromkeys(TIGHT_BINDING, "tblite")
        root = packages.get(self.name, self.name.split(".")[0].split(":")[0])
        versions = {}
        for package in (root, "ase", "physnet-ase"):
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                versions[package] = "unknown"
        return versions

    def _check_pyscf(self) -> None:
        """Try the functional on a hydrogen atom: names and packages it needs."""
        from pyscf import dft, gto

        if not 0 <= (self.grid_level or 0) <= 9:
            raise ValueError(f"--grid-level must be 0 to 9, got {self.grid_level}")
        atom = gto.M(atom="H", basis="sto-3g", spin=1, verbose=0)
        field = dft.UKS(atom)
        try:
            field.xc = self.functional
            field.grids.level = 0
            field.kernel()
        # PySCF raises KeyError, ValueError, RuntimeError, … by what is wrong.
        except Exception as error:
            raise ValueError(
                f"--functional {self.functional}: PySCF cannot calculate it "
                f"({type(error).__name__}: {error})"
            ) from error

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)


def _load_factory(path: str) -> Callable[..., Any]:
    """What ``package.module:factory`` names; the current folder is searched last."""
    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"--method {path}: {module_name} cannot be imported ({error})"
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ValueError(
            f"--method {path}: {module_name} has no function or class {name!r}"
        )
    return factory


def _require(package: str, method: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ImportError(
            f"--method {method} needs {package}, which is not installed; install "
            "physnet-ase[qm]"
        )


Array = NDArray[Any]

_HEAVY = 36  # def2 basis sets describe the core by a potential beyond krypton
_MAX_CYCLES = 100
_ENERGY_TOLERANCE = 1e-7  # Hartree, of the SCF
_GRADIENT_TOLERANCE = 3e-4  # Hartree, of its orbital gradient
_MAX_DESCENTS = 5
_DAVIDSON_STARTS = 4
_UNSTABLE = -1e-3  # Hartree; noise of the coarse grid lies above
_SAME_ENERGY = 1e-5  # Hartree


class _InOneState(Calculator):
    """An ASE calculator whose state is given when it is made."""

    implemented_properties = [  # noqa: RUF012 (declared so by ASE)
        "energy",
        "free_energy",
        "forces",
        "dipole",
        "charges",
        "magmoms",
    ]

    def __init__(self, state: ElectronicState) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._state = state

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill ``results``, or raise ``CalculationFailed``."""
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        self._calculate(cast(Atoms, self.atoms), "forces" in (properties or ()))

    def _calculate(self, atoms: Atoms, forces: bool) -> None:
        raise NotImplementedError


class TightBinding(_InOneState):
    """Spin-polarised GFN-xTB by tblite.

    Open shells get the spin-polarisation term of spGFN-xTB (Neugebauer, Bädorf, Ehlert,
    Hansen & Grimme, J. Comput. Chem. 2023, 44, 2120); in singlets it vanishes. Atomic
    charges and spin populations are Mulliken's. Occupations are those of 300 K, the
    default of the method; the energy holds their entropy, so forces are its gradient.

    Args:
        method: ``"GFN2-xTB"`` or ``"GFN1-xTB"``.
        state: Charge and multiplicity.
    """

    implemented_properties = [*_InOneState.implemented_properties, "stress"]  # noqa: RUF012

    def __init__(self, method: str, state: ElectronicState) -> None:
        super().__init__(state)
        self._method = method

    def _calculate(self, atoms: Atoms, forces: bool) -> None:
        from tblite.interface import Calculator as Solver

        unpaired = self._state.multiplicity - 1
        periodic = bool(atoms.pbc.any())
        try:
            solver = Solver(
                self._method,
                atoms.numbers,
                atoms.positions / BOHR,
                charge=self._state.charge,
                uhf=unpaired,
                lattice=atoms.cell.array / BOHR if periodic else None,
                periodic=atoms.pbc if periodic else None,
            )
            solver.set("verbosity", 0)
            solver.set("save-integrals", 1)
            if unpaired:
                solver.add("spin-polarization", 1.0)
            found = solver.singlepoint()
        except RuntimeError as error:
            raise CalculationFailed(str(error)) from error
        energy = float(found.get("energy")) * HARTREE
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": found.get("gradient") * (-HARTREE / BOHR),
            "charges": found.get("charges"),
            "magmoms": np.zeros(len(atoms)),
        }
        if unpaired:
            up, down = found.get("density-matrix")
            owners = solver.get("shell-map")[solver.get("orbital-map")]
            self.results["magmoms"] = mulliken_populations(
                up - down, found.get("overlap-matrix"), owners, len(atoms)
            )
        if periodic:
            stress = found.get("virial") * HARTREE / atoms.get_volume()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)
        else:
            self.results["dipole"] = found.get("dipole") * BOHR


class DensityFunctional(_InOneState):
    """Kohn-Sham DFT (or Hartree-Fock) by PySCF: restricted singlets, else unrestricted.

    The density is converged on the integration grid one level below ``grid_level``;
    energy and forces are evaluated on the grid asked for. The first has an error of
    second order in the density, so both differ from those of a density converged on the
    fine grid by less than that grid's own error (0.01 meV and 0.5 meV/Å for
    acetaldehyde and its ions), in half the time.

    Where DIIS does not converge, the second-order solver of PySCF continues. A solution
    that is a saddle point in the space of its own orbitals (an internal instability;
    Seeger & Pople, J. Chem. Phys. 1977, 66, 3045) is left downhill and converged again.
    A restricted singlet stays restricted.

    Besides what ASE knows, ``results`` holds ``s_squared``, the mean of S² in ħ².
    Charges and spin populations are Mulliken's, the dipole is about the coordinate
    origin.

    Args:
        state: Charge and multiplicity.
        functional: As PySCF spells it, or ``"hf"``.
        basis: Basis set; def2 sets bring their core potentials beyond krypton.
        grid_level: PySCF's integration grids, 0 (coarse) to 9.
        density_fit: Fit the density in an auxiliary basis (Coulomb and exchange), which
            changes energy differences by some 0.1 meV and saves most of the time.
        stability: Look for internal instabilities.
    """

    def __init__(
        self,
        state: ElectronicState,
        *,
        functional: str,
        basis: str,
        grid_level: int,
        density_fit: bool = True,
        stability: bool = True,
    ) -> None:
        super().__init__(state)
        self._functional = functional
        self._basis = basis
        self._grid_level = grid_level
        self._density_fit = density_fit
        self._stability = stability

    def _calculate(self, atoms: Atoms, forces: bool) -> None:
        if atoms.pbc.any():
            raise CalculationFailed("the method pyscf is for open systems only")
        molecule = self._molecule(atoms)
        field = self._solve(molecule)
        density = np.asarray(field.make_rdm1())
        field.grids = _grids(molecule, self._grid_level)
        energy = float(field.energy_tot(density)) * HARTREE
        owners = np.repeat(
            np.arange(molecule.natm), np.diff(molecule.aoslice_by_atom()[:, 2:])[:, 0]
        )
        overlap = field.get_ovlp()
        total, spin = density, np.zeros_like(density)
        if density.ndim == 3:
            total, spin = density[0] + density[1], density[0] - density[1]
        electrons, magmoms = (
            mulliken_populations(matrix, overlap, owners, molecule.natm)
            for matrix in (total, spin)
        )
        dipole = field.dip_moment(unit="AU", verbose=0, origin=(0.0, 0.0, 0.0))
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "dipole": BOHR * np.asarray(dipole),
            "charges": molecule.atom_charges() - electrons,
            "magmoms": magmoms,
            "s_squared": float(field.spin_square()[0]),
        }
        if forces:
            gradient = np.asarray(field.nuc_grad_method().kernel())
            self.results["forces"] = gradient * (-HARTREE / BOHR)

    def _molecule(self, atoms: Atoms) -> Any:
        from pyscf import gto

        def2 = self._basis.lower().startswith("def2")
        numbers = atoms.numbers.tolist()
        heavy = [chemical_symbols[z] for z in numbers if z > _HEAVY and def2]
        return gto.M(
            atom=list(zip(numbers, (atoms.positions / BOHR).tolist(), strict=True)),
            unit="Bohr",
            basis=self._basis,
            ecp=dict.fromkeys(heavy, self._basis),
            charge=self._state.charge,
            spin=self._state.multiplicity - 1,
            verbose=0,
        )

    def _solve(self, molecule: Any) -> Any:
        """The converged, and if asked for stable, field."""
        from pyscf import dft

        field = (dft.UKS if molecule.spin else dft.RKS)(molecule)
        if self._density_fit:
            field = field.density_fit()
        field.xc = self._functional
        coarse = min(self._grid_level, max(self._grid_level - 1, 1))
        field.grids = _grids(molecule, coarse)
        field.max_cycle = _MAX_CYCLES
        field.conv_tol, field.conv_tol_grad = _ENERGY_TOLERANCE, _GRADIENT_TOLERANCE
        field = _converge(field)
        if not self._stability:
            return field
        for _ in range(_MAX_DESCENTS):
            orbitals = downhill_orbitals(field)
            if orbitals is None:
                return field
            before = float(field.e_tot)
            lower = _converge(field.copy(), field.make_rdm1(orbitals, field.mo_occ))
            if lower.e_tot > before - _SAME_ENERGY:
                return field  # the coarse Hessian was wrong: nothing lies below
            field = lower
        raise CalculationFailed(
            f"the SCF still had an internal instability after {_MAX_DESCENTS} descents"
        )


def _grids(molecule: Any, level: int) -> Any:
    from pyscf import dft

    grids = dft.Grids(molecule)
    grids.level = level
    return grids.build()


def _converge(field: Any, density: Array | None = None) -> Any:
    """Run the SCF from a density, or from PySCF's guess."""
    field.kernel(density)
    if not field.converged:
        second_order = field.newton()
        second_order.kernel(field.mo_coeff, field.mo_occ)
        for name in ("mo_coeff", "mo_occ", "mo_energy", "e_tot", "converged"):
            setattr(field, name, getattr(second_order, name))
    if not field.converged:
        raise CalculationFailed(
            f"the SCF did not converge in {_MAX_CYCLES} cycles, nor did the "
            "second-order solver"
        )
    return field


def downhill_orbitals(field: Any) -> Array | None:
    """Orbitals turned towards lower energy at a saddle point; None at a minimum.

    The lowest eigenvalue of the Hessian with respect to rotations of occupied into
    empty orbitals, by Davidson's method from several of them: one alone would stay in
    its symmetry. The exchange-correlation part is integrated on the coarsest grid, good
    to some 0.002 Hartree for the eigenvalue.

    Args:
        field: A converged PySCF field, restricted or unrestricted.
    """
    from pyscf import lib
    from pyscf.soscf import newton_ah

    probe = field.copy()
    probe.grids = _grids(field.mol, 0)
    unrestricted = np.ndim(field.mo_occ) == 2
    rotate = newton_ah.gen_g_hop_uhf if unrestricted else newton_ah.gen_g_hop_rhf
    _, hessian_times, diagonal = rotate(probe, field.mo_coeff, field.mo_occ)
    if not diagonal.size:
        return None  # no electron, or no empty orbital, to rotate

    def precondition(residual: Array, eigenvalue: float, _: Array) -> Array:
        difference = diagonal - eigenvalue
        difference[abs(difference) < 1e-8] = 1e-8
        return residual / difference

    softest = np.argsort(diagonal, kind="stable")[:_DAVIDSON_STARTS]
    _, eigenvalues, vectors = lib.davidson1(
        lambda rotations: [hessian_times(rotation) for rotation in rotations],
        list(np.eye(diagonal.size)[softest]),
        precondition,
        tol=1e-3,
        tol_residual=0.025,
        max_space=40,
        nroots=1,
        verbose=0,
    )
    if eigenvalues[0] > _UNSTABLE:
        return None
    # A vector and its opposite are equally good: the sign makes runs repeatable.
    step = vectors[0] * np.sign(vectors[0][np.argmax(np.abs(vectors[0]))])
    if not unrestricted:
        return _turn(field.mo_coeff, field.mo_occ, step)
    occupied = np.count_nonzero(field.mo_occ[0])
    split = occupied * (len(field.mo_occ[0]) - occupied)
    return np.stack(
        [
            _turn(field.mo_coeff[spin], field.mo_occ[spin], part)
            for spin, part in enumerate((step[:split], step[split:]))
        ]
    )


def _turn(orbitals: Array, occupations: Array, step: Array) -> Array:
    """Orbitals after a rotation of occupied into empty ones."""
    from pyscf.scf.hf import unpack_uniq_var
    from pyscf.soscf.newton_ah import expmat

    return orbitals @ expmat(unpack_uniq_var(step, occupations))


def mulliken_populations(
    density: Array, overlap: Array, owners: Array, num_atoms: int
) -> Array:
    """Electrons of each atom: the diagonal of P·S, summed over its orbitals.

    R. S. Mulliken, J. Chem. Phys. 1955, 23, 1833. With the difference of the densities
    of both spins it gives spin populations.

    Args:
        density: [orbitals, orbitals] density matrix.
        overlap: [orbitals, orbitals] overlap of the orbitals.
        owners: [orbitals] the atom of each.
        num_atoms: Number of atoms.

    Returns:
        [atoms] populations in e.
    """
    populations = np.einsum("ij,ji->i", density, overlap)
    return np.bincount(owners, weights=populations, minlength=num_atoms)
