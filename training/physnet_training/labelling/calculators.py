"""Quantum chemistry in one charge and spin state, as ASE calculators.

Both take total charge and multiplicity when they are made, start every calculation from
the same guess, so that a label never depends on what was calculated before, and raise
``CalculationFailed`` instead of returning energies that did not converge.
"""

from typing import Any

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


class _StateCalculator(Calculator):
    """Keeps the state, and the atoms that ASE compares with the next ones."""

    def __init__(self, state: ElectronicState) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._state = state

    def _take(self, atoms: Atoms | None) -> Atoms:
        """The atoms to calculate.

        Raises:
            ValueError: There are none.
        """
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise ValueError("calculate needs atoms, got none")
        self.atoms = atoms.copy()
        return atoms


class TightBinding(_StateCalculator):
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
        super().__init__(state)
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

        atoms = self._take(atoms)
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


class DensityFunctional(_StateCalculator):
    """Kohn-Sham DFT (or Hartree-Fock) by PySCF: restricted singlets, else unrestricted.

    Besides what ASE knows, ``results`` holds ``s_squared``, the mean of S².
    Charges and spin populations are Mulliken's, the dipole is about the coordinate
    origin. Where DIIS does not converge the second-order solver of PySCF continues.

    Args:
        functional: As PySCF spells it, or ``"hf"``.
        basis: Basis set; def2 sets bring their core potentials beyond krypton.
        state: Charge and multiplicity.
        grid_level: PySCF's integration grids, 0 (coarse) to 9.
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
        self, functional: str, basis: str, state: ElectronicState, *, grid_level: int
    ) -> None:
        super().__init__(state)
        self._functional = functional
        self._basis = basis
        self._grid_level = grid_level

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Converge the SCF; forces only when asked for.

        Raises:
            CalculationFailed: The SCF does not converge, or the cell is periodic.
        """
        atoms = self._take(atoms)
        if atoms.pbc.any():
            raise CalculationFailed("the method pyscf is for open systems only")
        molecule = self._molecule(atoms)
        field = self._solve(molecule)
        energy = float(field.e_tot) * HARTREE
        density = np.asarray(field.make_rdm1())
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
        from pyscf import dft

        field = (dft.UKS if molecule.spin else dft.RKS)(molecule)
        field.xc = self._functional
        field.grids.level = self._grid_level
        field.max_cycle = _MAX_CYCLES
        field.kernel()
        if not field.converged:
            field = field.newton()
            field.kernel(field.mo_coeff, field.mo_occ)
        if not field.converged:
            raise CalculationFailed(
                f"the SCF did not converge in {_MAX_CYCLES} cycles, nor did the "
                "second-order solver"
            )
        return field


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
