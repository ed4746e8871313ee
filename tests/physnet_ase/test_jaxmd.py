"""The jax-md energy function: same numbers as ASE, nothing silent."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from jax_md import simulate as jax_md_simulate
from jax_md import space

from physnet_ase import (
    ElectronicState,
    PhysNetCalculator,
    load_potential,
    untrained_potential,
)
from physnet_ase.config import ModelConfig
from physnet_ase.jaxmd import physnet_neighbor_list
from physnet_ase.simulate import run
from physnet_ase.units import FEMTOSECOND
from physnet_ase.velocities import thermal_momenta

STATES = ((0, 1), (1, 2), (-1, 2), (0, 3))
CONFIG = ModelConfig(
    num_features=6,
    num_radial=4,
    num_blocks=1,
    num_residual_atomic=0,
    num_residual_interaction=0,
    num_residual_output=0,
    cutoff=4.0,
    max_degree=1,
)
# Two float32 routes sum a few eV in different orders; 1e-4 is the contract's bound.
CLOSE = {"rtol": 0.0, "atol": 1e-4}


@pytest.fixture(scope="module")
def potential():
    return untrained_potential(CONFIG, states=STATES)


@pytest.fixture(scope="module")
def crystal(potential):
    """Four molecules in a triclinic cell, upper triangular in jax-md's convention."""
    cell = np.array([[8.6, 0.0, 0.0], [1.1, 8.7, 0.0], [-0.6, 0.8, 8.8]])
    atoms = Atoms(cell=cell, pbc=True)
    for index, name in enumerate(("H2O", "NH3", "CH4", "H2O")):
        part = molecule(name)
        part.rotate(37.0 * index, (1, 1, index))
        part.translate(np.array([index % 2, index // 2, index % 2]) * 4.0)
        atoms += part
    atoms.wrap()
    return atoms


def open_functions(potential, atoms, **kwargs):
    """Energy function, positions and list of an open system."""
    neighbor_fn, energy_fn = physnet_neighbor_list(
        space.free()[0], None, potential, atoms.numbers, **kwargs
    )
    positions = jnp.asarray(atoms.positions, potential.dtype)
    return energy_fn, positions, neighbor_fn.allocate(positions)


def assert_three_routes_agree(potential, atoms, state, energy, forces):
    direct = potential.evaluate(atoms, [state])[0]
    atoms = atoms.copy()
    atoms.calc = PhysNetCalculator(potential, *state)
    reference = potential.reference_energy(atoms.numbers, ElectronicState(*state))
    for other_energy, other_forces in (
        (direct.energy, direct.forces),
        (atoms.get_potential_energy(), atoms.get_forces()),
    ):
        np.testing.assert_allclose(float(energy) + reference, other_energy, **CLOSE)
        np.testing.assert_allclose(forces, other_forces, **CLOSE)


def test_agrees_with_ase_and_direct_call_in_every_state(potential):
    atoms = molecule("CH3CH2OH")
    energy_fn, positions, neighbor = open_functions(potential, atoms)
    both = jax.jit(jax.value_and_grad(energy_fn))
    energies = []
    for charge, multiplicity in STATES:
        energy, gradient = both(
            positions, neighbor, total_charge=charge, spin_multiplicity=multiplicity
        )
        energies.append(float(energy))
        assert_three_routes_agree(
            potential, atoms, (charge, multiplicity), energy, -np.asarray(gradient)
        )
    assert len(set(energies)) == len(STATES)
    assert both._cache_size() == 1  # another state compiles nothing


@pytest.mark.parametrize("fractional", [False, True])
def test_periodic_agrees_with_ase(potential, crystal, fractional):
    box = jnp.asarray(crystal.cell.array.T, jnp.float32)
    displacement, _ = space.periodic_general(box, fractional)
    neighbor_fn, energy_fn = physnet_neighbor_list(
        displacement,
        box,
        potential,
        crystal.numbers,
        fractional_coordinates=fractional,
        dr_threshold=0.3,
    )
    positions = crystal.get_scaled_positions() if fractional else crystal.positions
    positions = jnp.asarray(positions, jnp.float32)
    neighbor = neighbor_fn.allocate(positions)
    energy, gradient = jax.jit(jax.value_and_grad(energy_fn))(positions, neighbor)
    assert_three_routes_agree(potential, crystal, (0, 1), energy, -np.asarray(gradient))


def test_stress_from_perturbation_is_the_stress_of_ase(potential, crystal):
    box = jnp.asarray(crystal.cell.array.T, jnp.float32)
    neighbor_fn, energy_fn = physnet_neighbor_list(
        space.periodic_general(box)[0],
        box,
        potential,
        crystal.numbers,
        fractional_coordinates=True,
    )
    positions = jnp.asarray(crystal.get_scaled_positions(), jnp.float32)
    neighbor = neighbor_fn.allocate(positions)

    @jax.jit
    @jax.grad
    def slope_at(strain):
        return energy_fn(positions, neighbor, box=box, perturbation=1.0 + strain)

    slope = slope_at(0.0)
    stress = potential.evaluate(crystal, [(0, 1)], ("stress",))[0].stress
    expected = np.sum(stress[:3]) * crystal.get_volume()
    np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("state", STATES)
def test_fragments_beyond_the_list_agree_with_ase(potential, state):
    """An ion and a molecule 9 Å apart: states of their own, and Coulomb's law."""
    atoms = molecule("H2O") + molecule("NH3")
    atoms.positions[3:] += [9.0, 0.0, 0.0]
    energy_fn, positions, neighbor = open_functions(potential, atoms)
    within_fragments = 3 * 2 + 4 * 3
    assert int(jnp.sum(neighbor.idx[0] < len(atoms))) == within_fragments
    charge, spin = map(jnp.int32, state)
    energy, gradient = jax.jit(jax.value_and_grad(energy_fn))(
        positions, neighbor, total_charge=charge, spin_multiplicity=spin
    )
    assert_three_routes_agree(potential, atoms, state, energy, -np.asarray(gradient))
    charges = potential.evaluate(atoms, [state], ("charges",))[0].charges
    apart = atoms.positions[3:, None] - atoms.positions[None, :3]
    force = (charges[3:, None] * charges[:3])[..., None] * apart
    force = 14.3996 * force / np.linalg.norm(apart, axis=2, keepdims=True) ** 3
    pull = -np.sum(np.asarray(gradient)[3:], axis=0)
    assert np.abs(pull).max() > 2e-6 or state == (0, 1)
    np.testing.assert_allclose(pull, force.sum(axis=(0, 1)), atol=3e-6)


def test_fragments_refuse_a_traced_state_that_was_not_seen(potential):
    atoms = molecule("H2O") + molecule("NH3")
    atoms.positions[3:] += [9.0, 0.0, 0.0]
    energy_fn, positions, neighbor = open_functions(potential, atoms)
    energy = jax.jit(energy_fn)(
        positions, neighbor, total_charge=jnp.int32(2), spin_multiplicity=jnp.int32(1)
    )
    assert np.isnan(energy)


def test_replicas_differ_in_positions_lists_and_states(potential, rng):
    atoms = molecule("C2H6")
    neighbor_fn, energy_fn = physnet_neighbor_list(
        space.free()[0], None, potential, atoms.numbers
    )
    shape = (3, *atoms.positions.shape)
    positions = atoms.positions + rng.normal(scale=0.1, size=shape)
    positions = jnp.asarray(positions, jnp.float32)
    neighbor = neighbor_fn.allocate(positions[0], extra_capacity=2)
    update = jax.jit(jax.vmap(neighbor_fn.update, (0, None)))
    neighbors = update(positions, neighbor)
    charges, spins = jnp.array([0, 1, -1]), jnp.array([3, 2, 2])

    def energy_of(position, neighbor, charge, spin):
        return energy_fn(
            position, neighbor, total_charge=charge, spin_multiplicity=spin
        )

    batch = jax.jit(jax.vmap(jax.value_and_grad(energy_of)))
    energies, gradients = batch(positions, neighbors, charges, spins)
    for row in range(3):
        atoms.positions = positions[row]
        state = (int(charges[row]), int(spins[row]))
        alone = potential.evaluate(atoms, [state])[0]
        np.testing.assert_allclose(energies[row], alone.energy, **CLOSE)
        np.testing.assert_allclose(-gradients[row], alone.forces, **CLOSE)


def test_isolated_atom_has_finite_energy_and_no_force(potential):
    energy_fn, positions, neighbor = open_functions(potential, Atoms("O"))
    energy, gradient = jax.jit(jax.value_and_grad(energy_fn))(positions, neighbor)
    assert np.isfinite(energy)
    np.testing.assert_array_equal(gradient, 0.0)


def test_float64(potential):
    atoms = molecule("H2O")
    double = potential.astype("float64")
    with pytest.raises(ValueError, match="jax_enable_x64"):
        open_functions(double, atoms)
    with jax.enable_x64(True):
        energy_fn, positions, neighbor = open_functions(double, atoms)
        energy, gradient = jax.jit(jax.value_and_grad(energy_fn))(positions, neighbor)
        assert energy.dtype == np.float64
    direct = double.evaluate(atoms, [(0, 1)])[0]
    np.testing.assert_allclose(energy, direct.energy, rtol=0, atol=1e-8)
    np.testing.assert_allclose(-gradient, direct.forces, rtol=0, atol=1e-8)


def test_jax_md_moves_atoms_as_simulate_run_does(potential):
    atoms = molecule("NH3")
    atoms.set_momenta(thermal_momenta(atoms, 300.0, seed=2))
    ours = run(atoms, potential, charge=1, multiplicity=2, steps=40, timestep_fs=0.5)
    energy_fn, positions, neighbor = open_functions(
        potential, atoms, total_charge=1, spin_multiplicity=2
    )
    init_fn, step_fn = jax_md_simulate.nve(
        energy_fn, space.free()[1], 0.5 * FEMTOSECOND
    )
    state = init_fn(
        jax.random.PRNGKey(0),
        positions,
        kT=0.0,
        mass=jnp.asarray(atoms.get_masses(), positions.dtype),
        momenta=jnp.asarray(atoms.get_momenta(), positions.dtype),
        neighbor=neighbor,
    )
    step = jax.jit(lambda state: step_fn(state, neighbor=neighbor))
    for _ in range(40):
        state = step(state)
    # Forty steps of float32 rounding, nothing else.
    np.testing.assert_allclose(state.position, ours.atoms.positions, atol=1e-4)


def test_unfamiliar_positions_are_said_once_when_the_list_is_made():
    model = load_potential("states-dft-small")
    for name, count in (("H2O", 0), ("C6H6", 1)):
        atoms = molecule(name)
        neighbor_fn, _ = physnet_neighbor_list(
            space.free()[0], None, model, atoms.numbers
        )
        position = jnp.asarray(atoms.positions, jnp.float32)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            neighbor_fn.allocate(position)
            neighbor_fn.allocate(position)
        said = [one for one in caught if "is unfamiliar" in str(one.message)]
        assert [one.filename for one in said] == [__file__] * count
