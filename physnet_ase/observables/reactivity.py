"""Indices of chemical reactivity: condensed Fukui functions, hardness and its kin."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from ase import Atoms

from physnet_ase.calculator import PhysNetCalculator
from physnet_ase.observables.levels import (
    evaluate_states,
    final_states,
    lowest,
    start_state,
    vertical_energies,
)
from physnet_ase.observables.results import (
    FukuiFunctions,
    Observable,
    State,
    one_or_many,
)
from physnet_ase.state import ElectronicState, with_state


@dataclass(frozen=True, eq=False)
class ReactivityIndices(Observable):
    """What follows from the energies of N−1, N and N+1 electrons at one geometry.

    ``value`` is the hardness η = IE − EA in eV. Some texts, after Parr & Pearson 1983,
    define it as half of that. ``states`` and ``energies`` are those of the cation, the
    molecule and the anion.
    """

    @property
    def ionization_energy(self) -> float:
        """IE = E(N−1) − E(N) in eV, vertical."""
        return self.energies[0] - self.energies[1]

    @property
    def electron_affinity(self) -> float:
        """EA = E(N) − E(N+1) in eV, vertical."""
        return self.energies[1] - self.energies[2]

    @property
    def hardness(self) -> float:
        """η = IE − EA in eV, without the factor ½."""
        return self.value

    @property
    def softness(self) -> float:
        """S = 1/η in 1/eV."""
        return 1.0 / self.hardness

    @property
    def electronegativity(self) -> float:
        """Mulliken's χ = (IE + EA)/2 in eV."""
        return 0.5 * (self.ionization_energy + self.electron_affinity)

    @property
    def chemical_potential(self) -> float:
        """µ = −χ in eV: the slope ∂E/∂N of the parabola through the three energies."""
        return -self.electronegativity

    @property
    def electrophilicity(self) -> float:
        """ω = µ²/(2η) in eV: energy gained by taking up electrons to saturation."""
        return self.chemical_potential**2 / (2.0 * self.hardness)


@one_or_many
def reactivity_indices(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    from_state: State | None = None,
    cation_state: State | None = None,
    anion_state: State | None = None,
) -> list[ReactivityIndices]:
    """Hardness, softness, electronegativity and electrophilicity of a molecule.

    From the vertical ionization energy and electron affinity, by finite differences of
    E(N): η = IE − EA (Parr & Pearson, J. Am. Chem. Soc. 1983, 105, 7512, who take half
    of it), χ = (IE + EA)/2 (Mulliken, J. Chem. Phys. 1934, 2, 782) = −µ (Parr,
    Donnelly, Levy & Palke, J. Chem. Phys. 1978, 68, 3801) and ω = µ²/(2η) (Parr, von
    Szentpály & Liu, J. Am. Chem. Soc. 1999, 121, 1922).

    Args:
        atoms: One molecule, or a list of them for a list of results.
        calculator: The calculator; its settings resolve the states.
        from_state: State with N electrons; the atoms' own by default.
        cation_state: State with N−1 electrons; chosen as in ``ionization_energy``.
        anion_state: State with N+1 electrons; chosen as in ``electron_affinity``.

    Raises:
        ValueError: A state cannot be evaluated, the model has seen no such ion, or the
            hardness is not positive, so that no index has a meaning.
    """
    results = []
    for molecule, triple in zip(
        atoms,
        _triples(atoms, calculator, from_state, cation_state, anion_state),
        strict=True,
    ):
        minus, zero, plus = triple.energies
        hardness = minus - 2.0 * zero + plus
        if not hardness > 0.0:
            raise ValueError(
                f"{molecule.get_chemical_formula()} in {triple.states[1]}: the "
                f"hardness IE − EA must be positive, it is {hardness:.3f} eV. Is this "
                "the ground state of a molecule that the model knows?"
            )
        geometries = tuple(with_state(molecule, state) for state in triple.states)
        results.append(
            ReactivityIndices(hardness, triple.states, triple.energies, geometries)
        )
    return results


@one_or_many
def fukui_functions(
    atoms: list[Atoms],
    calculator: PhysNetCalculator,
    from_state: State | None = None,
    cation_state: State | None = None,
    anion_state: State | None = None,
) -> list[FukuiFunctions]:
    """Condensed Fukui functions from the atomic charges of N−1, N and N+1 electrons.

    f⁺ = q(N) − q(N+1), f⁻ = q(N−1) − q(N), f⁰ = (f⁺ + f⁻)/2 at one geometry (Yang &
    Mortier, J. Am. Chem. Soc. 1986, 108, 5708), with the charges the model predicts.

    Args:
        atoms: One molecule, or a list of them for a list of results.
        calculator: The calculator; its settings resolve the states.
        from_state: State with N electrons; the atoms' own by default.
        cation_state: State with N−1 electrons; chosen as in ``ionization_energy``.
        anion_state: State with N+1 electrons; chosen as in ``electron_affinity``.

    Raises:
        ValueError: A state cannot be evaluated, or the model has seen no such ion.
    """
    triples = _triples(atoms, calculator, from_state, cation_state, anion_state)
    chosen = [triple.states for triple in triples]
    geometries = [
        tuple(with_state(molecule, state) for state in states)
        for molecule, states in zip(atoms, chosen, strict=True)
    ]
    evaluated = evaluate_states(atoms, calculator, chosen, ("energy", "charges"))
    results = []
    for states, mine, three in zip(chosen, geometries, evaluated, strict=True):
        charges = np.stack([result.charges for result in three])
        f_minus, f_plus = charges[0] - charges[1], charges[1] - charges[2]
        value = np.stack([f_plus, f_minus, 0.5 * (f_plus + f_minus)])
        energies = tuple(float(result.energy) for result in three)
        results.append(FukuiFunctions(value, states, energies, charges, mine))
    return results


class _Triple(NamedTuple):
    """Cation, molecule and anion."""

    states: tuple[ElectronicState, ElectronicState, ElectronicState]
    energies: tuple[float, float, float]  # eV


def _triples(
    molecules: list[Atoms],
    calculator: PhysNetCalculator,
    from_state: State | None,
    cation_state: State | None,
    anion_state: State | None,
) -> list[_Triple]:
    """The lowest cation and anion of each molecule, all energies in one batch."""
    jobs = []
    for molecule in molecules:
        start = start_state(molecule, calculator, from_state)
        cations = final_states(molecule, calculator, start, cation_state, +1)
        anions = final_states(molecule, calculator, start, anion_state, -1)
        jobs.append((start, cations, anions))
    rows = vertical_energies(
        molecules,
        calculator,
        [[*cations, start, *anions] for start, cations, anions in jobs],
    )
    triples = []
    for (start, cations, anions), row in zip(jobs, rows, strict=True):
        number = len(cations)
        lost, gained = row[:number], row[number + 1 :]
        triples.append(
            _Triple(
                (lowest(cations, lost), start, lowest(anions, gained)),
                (min(lost), row[number], min(gained)),
            )
        )
    return triples
