"""Quantum chemistry in one charge and spin state, as ASE calculators.

Both take total charge and multiplicity when they are made, start every calculation from
the same guess, so that a label never depends on what was calculated before, and raise
``CalculationFailed`` instead of returning energies that did not converge.
"""

from typing import Any, cast

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    CalculationFailed,
    Calculator,
    all_changes,
)
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from physnet_ase.state import ElectronicState
from physnet_ase.units import BOHR, HARTREE

Array = NDArray[Any]

_HEAVY = 36  # def2 basis sets describe the core by a potential beyond krypton
_MAX_CYCLES = 100
_ENERGY_TOLERANCE = 1e-7  # Hartree, of the SCF
_GRADIENT_TOLERANCE = 3e-4  # Hartree, of its orbital gradient
_MAX_DESCENTS = 5
_DAVIDSON_STARTS = 4
_UNSTABLE = -1e-3  # Hartree; noise of the coarse grid lies above
_SAME_ENERGY = 1e-5  # Hartree


class TightBinding(Calculator):
    """Spin-polarised GFN-xTB by tblite.

    Open shells get the spin-polarisation term of spGFN-xTB (Neugebauer, Bädorf, Ehlert,
    Hansen & Grimme, J. Comput. Chem. 2023, 44, 2120); in singlets it vanishes. Atomic
    charges and spin populations are Mulliken's. Occupations are those of 300 K, the
    default of the method; the energy holds their entropy, so forces are its gradient.

    Args:
        method: ``"GFN2-xTB"`` or ``"GFN1-xTB"``.
        state: Charge and multiplicity.
    """

    implemented_properties = [  # noqa: RUF012 (declared so by ASE)
        "energy",
        "free_energy",
        "forces",
        "stress",
        "dipole",
        "charges",
        "magmoms",
    ]

    def __init__(self, method: str, state: ElectronicState) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._state = state
        self._method = method

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Solve for energy, forces, dipole, charges and spin populations at once.

        Raises:
            CalculationFailed: No convergence, atoms that coincide, unknown elements.
        """
        from tblite.interface import Calculator as Solver

        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        atoms = cast(Atoms, self.atoms)
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


class DensityFunctional(Calculator):
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

    implemented_properties = [  # noqa: RUF012 (declared so by ASE)
        "energy",
        "free_energy",
        "forces",
        "dipole",
        "charges",
        "magmoms",
    ]

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
        super().__init__()  # type: ignore[no-untyped-call]
        self._state = state
        self._functional = functional
        self._basis = basis
        self._grid_level = grid_level
        self._density_fit = density_fit
        self._stability = stability

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Converge the SCF; forces only when asked for.

        Raises:
            CalculationFailed: The SCF does not converge or stays unstable, or the cell
                is periodic.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        atoms = cast(Atoms, self.atoms)
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
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "dipole": np.asarray(
                field.dip_moment(unit="AU", verbose=0, origin=(0.0, 0.0, 0.0))
            )
            * BOHR,
            "charges": molecule.atom_charges() - electrons,
            "magmoms": magmoms,
            "s_squared": float(field.spin_square()[0]),
        }
        if properties and "forces" in properties:
            gradient = np.asarray(field.nuc_grad_method().kernel())
            self.results["forces"] = gradient * (-HARTREE / BOHR)

    def _molecule(self, atoms: Atoms) -> Any:
        from pyscf import gto

        heavy = {
            symbol: self._basis
            for symbol, number in zip(
                atoms.get_chemical_symbols(), atoms.numbers, strict=True
            )
            if number > _HEAVY and self._basis.lower().startswith("def2")
        }
        return gto.M(
            atom=[
                (int(number), tuple(position / BOHR))
                for number, position in zip(atoms.numbers, atoms.positions, strict=True)
            ],
            unit="Bohr",
            basis=self._basis,
            ecp=heavy,
            charge=self._state.charge,
            spin=self._state.multiplicity - 1,
            verbose=0,
        )

    def _solve(self, molecule: Any) -> Any:
        """The converged, and if asked for stable, field.

        Raises:
            CalculationFailed: There is none.
        """
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
    """Run the SCF from a density, or from PySCF's guess.

    Raises:
        CalculationFailed: It does not converge.
    """
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
