"""D3(BJ) dispersion against the library of its authors, and as a term of a model."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from dftd3.interface import DispersionModel, RationalDampingParam

from physnet_ase.config import ModelConfig
from physnet_ase.physics.dispersion import PARAMETERS
from physnet_ase.potential import Potential
from physnet_ase.state import ElectronicState
from physnet_ase.units import BOHR, HARTREE
from physnet_ase.untrained import untrained_potential

ELEMENTS = (1, 6, 7, 8, 9, 14, 16, 17, 26, 35, 53, 79)
NEUTRAL = [ElectronicState(0, 1)]


@pytest.fixture(scope="module")
def bare():
    """A potential without any term of physics."""
    config = ModelConfig(
        num_features=8, num_radial=4, num_blocks=1, cutoff=4.0, electrostatics=False
    )
    return untrained_potential(config, ELEMENTS).astype("float64")


def with_dispersion(potential, functional):
    config = potential.config.model_copy(update={"dispersion": functional})
    metadata = potential.metadata.model_copy(update={"config": config})
    return Potential(metadata, potential.params, "float64")


def library(atoms, functional):
    """Energy in eV and forces in eV/Å of dftd3."""
    s8, a1, a2 = PARAMETERS[functional]
    parameters = RationalDampingParam(s6=1.0, s8=s8, s9=0.0, a1=a1, a2=a2)
    model = DispersionModel(atoms.numbers, atoms.positions / BOHR)
    found = model.get_dispersion(parameters, grad=True)
    return found["energy"] * HARTREE, -found["gradient"] * HARTREE / BOHR


def structures():
    """Molecules with several coordination numbers, heavy elements, far neighbours."""
    benzene, stacked = molecule("C6H6"), molecule("C6H6")
    stacked.positions += [0.3, 1.6, 3.6]
    rattled = molecule("CH3CONH2")
    rattled.rattle(0.1, seed=1)
    chain = [[0, 0, 0], [0, 0, 2.1], [0.4, 2.6, 0.2], [5, 1, 7.5], [6, 1.5, 8]]
    heavy = Atoms("AuIFeBrH", chain)
    far = molecule("SiH4") + Atoms("Cl2", [[0, 0, 9.0], [0, 0, 11.0]])
    return [benzene + stacked, rattled, heavy, far, Atoms("O")]


@pytest.mark.parametrize("functional", list(PARAMETERS))
def test_energies_and_forces_are_those_of_the_library(bare, functional):
    model = with_dispersion(bare, functional)
    some = structures() if functional == "pbe" else structures()[1:2]
    for atoms in some:
        [with_it], [without] = (
            one.evaluate(atoms, NEUTRAL, allow_unseen_states=True)
            for one in (model, bare)
        )
        energy, forces = library(atoms, functional)
        assert with_it.energy - without.energy == pytest.approx(energy, abs=1e-6)
        found = with_it.forces - without.forces
        np.testing.assert_allclose(found, forces, atol=1e-6)


def test_pairs_of_a_cell_count_up_to_the_cutoff_and_fade_before_it(bare):
    model = with_dispersion(bare, "pbe")

    def energy(*heights):
        places = [[0, 0, z] for z in heights]
        chains = Atoms(f"C{len(heights)}", places, cell=[2.5, 0, 0], pbc=[1, 0, 0])
        [one], [other] = (
            p.evaluate(chains, NEUTRAL, allow_unseen_states=True) for p in (model, bare)
        )
        return one.energy - other.energy

    alone = energy(0.0)
    assert alone < -1e-3
    between = [energy(0.0, z) - 2 * alone for z in (2.9, 3.3, 3.9, 3.99, 4.01)]
    assert between == sorted(between)
    assert between[0] < -0.01
    assert between[3:] == pytest.approx([0.0, 0.0], abs=1e-5)
    assert between[4] == pytest.approx(0.0, abs=1e-12)


def test_what_it_does_not_know_is_refused(bare):
    with pytest.raises(ValueError, match="Input should be"):
        ModelConfig(dispersion="lda")
    with pytest.raises(ValueError, match="elements up to radon, not U"):
        untrained_potential(bare.config.model_copy(update={"dispersion": "pbe"}), (92,))
    names = ModelConfig.model_fields["dispersion"].annotation.__args__
    assert set(names) == {"", *PARAMETERS}
