"""The terms with formulas, against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Graph, build_graph, needed_capacity
from physnet_ase.molecules import Molecules, concatenate
from physnet_ase.neighbors import find_pairs, join_pairs
from physnet_ase.physics.electrostatics import (
    coulomb_energies,
    damped_inverse,
    shift_to_total,
)
from physnet_ase.physics.ewald import ewald_pair_potential, reciprocal_energies
from physnet_ase.physics.repulsion import zbl_energy
from physnet_ase.potential import Potential
from physnet_ase.reciprocal import ewald_smearing
from physnet_ase.state import ElectronicState
from physnet_ase.units import COULOMB_CONSTANT
from physnet_ase.untrained import untrained_potential

CUTOFF = 4.0


def scalar(function, *arguments):
    """Call a function of one pair in float64."""
    with jax.enable_x64(True):
        arrays = [jnp.asarray([a]) for a in arguments]
        return float(function(*arrays, CUTOFF)[0])


def test_damped_inverse_by_hand():
    # r = 0.5: φ(2·0.5/4) = 1 - 10/4³ + 15/4⁴ - 6/4⁵ = 0.896484375,
    # φ/√1.25 + (1 - φ)/0.5 = 0.8018400 + 0.2070313
    assert scalar(damped_inverse, 0.5) == pytest.approx(1.0088713, abs=1e-6)
    assert scalar(damped_inverse, 2.0) == pytest.approx(0.5, abs=1e-12)
    assert scalar(damped_inverse, 40.0) == pytest.approx(0.025, abs=1e-12)
    assert scalar(damped_inverse, 1e-3) == pytest.approx(1.0, abs=1e-5)


def ewald(atoms, charges, cutoff):
    """Energy of point charges in a cell, without the damping of the network's."""
    molecule = Molecules.from_atoms([atoms], [ElectronicState(0, 1)])
    pairs = find_pairs(molecule, cutoff)
    graph = build_graph(molecule, pairs, needed_capacity(molecule, pairs))
    distances = np.linalg.norm(pairs.vectors(atoms.positions), axis=1)
    with jax.enable_x64(True):
        q = jnp.asarray(charges, jnp.float64)
        real = 0.5 * ewald_pair_potential(jnp.asarray(distances), cutoff)
        graph = jax.tree.map(jnp.asarray, graph)
        energies = coulomb_energies(q, real, graph.senders, graph.receivers)
        return float(jnp.sum(energies + reciprocal_energies(q, graph, cutoff)))


def sum_over_waves(positions, charges, cell, smearing):
    """The reciprocal sum, wave by wave (Ewald, Ann. Phys. 1921, 369, 253)."""
    most = np.ceil(np.array([15.0, 8.0, 8.0]) / smearing).astype(int)
    turns = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most)), -1)
    turns = turns.reshape(-1, 3)
    turns = turns[np.any(turns != 0, axis=1)]
    waves = 2.0 * np.pi * turns @ jnp.linalg.inv(cell).T
    squared = jnp.sum(waves**2, axis=1)
    phases = positions @ waves.T
    density = (charges @ jnp.cos(phases)) ** 2 + (charges @ jnp.sin(phases)) ** 2
    kernel = 4.0 * np.pi * jnp.exp(-0.5 * smearing**2 * squared) / squared
    itself = jnp.sum(charges**2) * np.sqrt(2.0 / np.pi) / smearing
    volume = jnp.abs(jnp.linalg.det(cell))
    return 0.5 * COULOMB_CONSTANT * (jnp.sum(kernel * density) / volume - itself)


def test_the_mesh_gives_the_sum_over_waves_with_forces_and_stress(rng):
    atoms = bulk("NaCl", "rocksalt", a=5.0, cubic=True) * (2, 1, 1)
    atoms.set_cell(atoms.cell.array + rng.normal(scale=0.3, size=(3, 3)), True)
    atoms.rattle(0.3, seed=1)
    charges = np.where(atoms.numbers == 11, 0.8, -0.8)
    molecule = Molecules.from_atoms([atoms], [ElectronicState(0, 1)])
    # Another molecule beside it, open, which has no part in it.
    other = Molecules.from_atoms([Atoms("He")], [ElectronicState(0, 1)])
    pairs = [find_pairs(one, CUTOFF) for one in (molecule, other)]
    both = concatenate([molecule, other])
    graph = build_graph(both, join_pairs(pairs, both.n_atoms))
    with jax.enable_x64(True):
        graph = jax.tree.map(jnp.asarray, graph)
        padded = jnp.zeros(len(graph.positions)).at[: len(charges)].set(charges)

        def on_mesh(positions, cell):
            moved = graph._replace(
                positions=graph.positions.at[: len(charges)].set(positions),
                cell=graph.cell.at[0].set(cell),
            )
            return jnp.sum(reciprocal_energies(padded, moved, CUTOFF))

        def exactly(positions, cell):
            return sum_over_waves(positions, charges, cell, ewald_smearing(CUTOFF))

        where = jnp.asarray(atoms.positions), jnp.asarray(atoms.cell.array)
        found, expected = (
            jax.value_and_grad(energy, argnums=(0, 1))(*where)
            for energy in (on_mesh, exactly)
        )
    assert found[0] == pytest.approx(float(expected[0]), abs=1e-4)
    forces, stress = expected[1]
    assert np.abs(forces).max() > 0.3
    np.testing.assert_allclose(found[1][0], forces, atol=6e-5)
    np.testing.assert_allclose(found[1][1], stress, atol=2e-4)
    np.testing.assert_allclose(np.asarray(found[1][0]).sum(axis=0), 0.0, atol=1e-10)


@pytest.mark.parametrize("cutoff", [3.0, 6.0, 10.0])
@pytest.mark.parametrize(
    ("crystal", "side", "nearest", "madelung"),
    [
        # Madelung constants per ion pair: Sakamoto, J. Chem. Phys. 1958, 28, 164
        ("rocksalt", 5.64, 2.82, 1.747564594633),
        ("cesiumchloride", 4.12, 4.12 * 3**0.5 / 2, 1.762674773071),
        ("zincblende", 5.41, 5.41 * 3**0.5 / 4, 1.638055053388),
    ],
)
def test_ewald_gives_madelung_constants(cutoff, crystal, side, nearest, madelung):
    atoms = bulk("NaCl", crystal, a=side)
    charges = np.where(atoms.numbers == 11, 1.0, -1.0)
    expected = -madelung * COULOMB_CONSTANT / nearest
    assert ewald(atoms, charges, cutoff) == pytest.approx(expected, rel=2e-6)


def test_a_charged_cell_has_the_neutralising_background():
    # one point charge in a cube: -2.837297479481 Q²/2L (Placzek, Nijboer & Van Hove)
    alone = Atoms("H", [[1.0, 2.0, 3.0]], cell=[9.0, 9.0, 9.0], pbc=True)
    expected = -2.837297479481 * COULOMB_CONSTANT * 4.0 / 18.0
    assert ewald(alone, [2.0], 6.0) == pytest.approx(expected, rel=1e-6)


def test_ewald_agrees_with_a_larger_cell_and_another_cutoff(rng):
    atoms = Atoms("H6", rng.uniform(0, 6, (6, 3)), cell=[6.0, 6.5, 7.0], pbc=True)
    atoms.set_cell([[6.0, 0.0, 0.0], [1.0, 6.5, 0.0], [-2.0, 0.7, 7.0]])
    charges = rng.normal(scale=0.5, size=6)
    energy = ewald(atoms, charges, 4.0)
    assert ewald(atoms, charges, 9.0) == pytest.approx(energy, abs=1e-5)
    twice = atoms.repeat((1, 2, 1))
    assert ewald(twice, [*charges, *charges], 4.0) == pytest.approx(
        2 * energy, abs=1e-5
    )


def test_coulomb_energy_of_ions_by_hand():
    charges = jnp.asarray([1.0, -1.0, 2.0])
    senders, receivers = jnp.asarray([1, 2, 2]), jnp.asarray([0, 0, 1])
    inverse = jnp.asarray([1 / 2, 1 / 4, 1 / 5])
    energies = coulomb_energies(charges, inverse, senders, receivers)
    # e²/4πε₀ = 14.39965 eV·Å; pairs -1/2, 2/4, -2/5, half to each of their atoms
    expected = 14.399645 * np.array([0.0, -0.45, 0.05])
    np.testing.assert_allclose(energies, expected, rtol=1e-6)


def test_shift_to_total_spreads_the_difference_evenly():
    graph = Graph(**dict.fromkeys(Graph._fields))._replace(
        molecule_index=jnp.asarray([0, 0, 1, 1]),
        atom_mask=jnp.asarray([True, True, True, False]),
        total_charge=jnp.asarray([1, -1]),
    )
    values = jnp.asarray([0.5, 0.1, 0.25, 9.0])
    shifted = shift_to_total(values, graph.total_charge, graph)
    np.testing.assert_allclose(shifted, [0.7, 0.3, -1.0, 0.0], atol=1e-6)


# python: a=0.8854*0.529177210903/(6**.23+8**.23); x=0.6/a; 14.3996454784*48/0.6
#   * (.18175*exp(-3.1998*x)+.50986*exp(-.94229*x)+.28022*exp(-.4029*x)
#   +.02817*exp(-.20162*x)) * (1-10*.15**3+15*.15**4-6*.15**5)
ZBL_CO = 90.01416291


def test_zbl_by_hand():
    with jax.enable_x64(True):
        distance = jnp.asarray([0.6, 1.5, 3.9, 4.0, 5.0])
        carbon, oxygen = jnp.full(5, 6), jnp.full(5, 8)
        energies = np.asarray(zbl_energy(distance, carbon, oxygen, CUTOFF))
        swapped = np.asarray(zbl_energy(distance, oxygen, carbon, CUTOFF))
    assert energies[0] == pytest.approx(ZBL_CO, rel=1e-6)
    np.testing.assert_allclose(swapped, energies, rtol=1e-14)
    assert np.all(np.diff(energies[:4]) < 0.0)
    assert energies[2] > 0.0
    np.testing.assert_array_equal(energies[3:], 0.0)


@pytest.fixture(scope="module")
def bare():
    """A potential without any term of physics."""
    config = ModelConfig(
        num_features=8, num_radial=4, num_blocks=1, cutoff=CUTOFF, electrostatics=False
    )
    return untrained_potential(config, (6, 8)).astype("float64")


def with_term(potential, **fields):
    """The same weights with a term switched on."""
    config = potential.config.model_copy(update=fields)
    metadata = potential.metadata.model_copy(update={"config": config})
    return Potential(metadata, potential.params, "float64")


def test_zbl_enters_the_total_energy_once_and_positive(bare):
    atoms = Atoms("CO", [[0, 0, 0], [0, 0.6, 0]])
    repulsive = with_term(bare, zbl=True).evaluate(atoms)
    plain = bare.evaluate(atoms)
    assert repulsive.energy - plain.energy == pytest.approx(ZBL_CO, rel=1e-6)
    push = repulsive.forces - plain.forces
    assert push[0, 1] < 0.0 < push[1, 1]


@pytest.mark.parametrize("distance", [0.5, 2.5, 3.0])
def test_coulomb_enters_the_total_energy_of_open_systems_once(bare, distance):
    atoms = Atoms("CO", [[0, 0, 0], [0, distance, 0]])
    charged = with_term(bare, electrostatics=True)
    wanted = ("energy", "forces", "charges")
    [result], [plain] = (p.evaluate(atoms, [(1, 2)], wanted) for p in (charged, bare))
    inverse = {0.5: 1.0088713, 2.5: 1 / 2.5, 3.0: 1 / 3}[distance]
    expected = COULOMB_CONSTANT * np.prod(result.charges) * inverse
    assert abs(expected) > 1e-3
    assert result.energy - plain.energy == pytest.approx(expected, rel=1e-6)


def test_coulomb_of_a_cell_is_ewalds_sum_damped_at_short_range(bare):
    charged = with_term(bare, electrostatics=True)
    # too thin to be a molecule in vacuum
    atoms = Atoms("CO", [[0, 0, 0], [0, 1.2, 0]], cell=[3.0, 20, 20], pbc=True)
    wanted = ("energy", "charges")
    [result], [plain] = (
        p.astype("float64").evaluate(atoms, [(1, 2)], wanted) for p in (charged, bare)
    )
    expected = ewald(atoms, result.charges, CUTOFF)
    i, j, distances = neighbor_list("ijd", atoms, CUTOFF / 2)
    for first, second, distance in zip(i, j, distances, strict=True):
        missing = scalar(damped_inverse, distance) - 1.0 / distance
        product = result.charges[first] * result.charges[second]
        expected += 0.5 * COULOMB_CONSTANT * product * missing
    assert result.energy - plain.energy == pytest.approx(expected, abs=1e-8)
