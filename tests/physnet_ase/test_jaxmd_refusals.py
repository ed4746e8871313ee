"""What the jax-md energy function refuses: by raising where it can, else by NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from jax_md import partition, space

from physnet_ase import untrained_potential
from physnet_ase.config import ModelConfig
from physnet_ase.jaxmd import physnet_neighbor_list

CONFIG = ModelConfig(
    num_features=4,
    num_radial=4,
    num_blocks=1,
    num_residual_atomic=0,
    num_residual_interaction=0,
    num_residual_output=0,
    cutoff=4.0,
)
WATER = molecule("H2O")


@pytest.fixture(scope="module")
def potential():
    return untrained_potential(CONFIG)


@pytest.fixture(scope="module")
def water(potential):
    """Energy function, positions and list of one molecule."""
    neighbor_fn, energy_fn = physnet_neighbor_list(
        space.free()[0], None, potential, WATER.numbers
    )
    positions = jnp.asarray(WATER.positions, jnp.float32)
    return energy_fn, positions, neighbor_fn.allocate(positions)


BAD_STATES = {
    (0, 2): "multiplicity 2 .* impossible.* 10 electrons.* 1, 3",
    (2, 1): "not trained on charge \\+2, multiplicity 1",
    (9, 2): "outside the model's ranges",
    (11, 1): "removes more electrons",
}


@pytest.mark.parametrize("state", BAD_STATES, ids=str)
def test_bad_state_raises_when_concrete_and_is_nan_when_traced(water, state):
    energy_fn, positions, neighbor = water
    charge, spin = state
    with pytest.raises(ValueError, match=BAD_STATES[state]):
        energy_fn(positions, neighbor, total_charge=charge, spin_multiplicity=spin)
    energy, gradient = jax.jit(jax.value_and_grad(energy_fn))(
        positions, neighbor, total_charge=charge, spin_multiplicity=spin
    )
    assert np.isnan(energy)
    assert np.isnan(gradient).all()


def test_bad_default_state_and_element_are_refused_at_once(potential):
    free = space.free()[0]
    with pytest.raises(ValueError, match="impossible.* 9 electrons"):
        physnet_neighbor_list(free, None, potential, WATER.numbers, total_charge=1)
    with pytest.raises(ValueError, match="atom 1 is Cl"):
        physnet_neighbor_list(free, None, potential, [1, 17])
    with pytest.raises(ValueError, match="species must be the atomic numbers"):
        physnet_neighbor_list(free, None, potential, [1.0, 8.0])


def test_unseen_state_on_request(potential):
    arguments = (space.free()[0], None, potential, WATER.numbers, 0, 5)
    with pytest.raises(ValueError, match="allow_unseen_states=True"):
        physnet_neighbor_list(*arguments)
    with pytest.warns(UserWarning, match="extrapolation"):
        _, energy_fn = physnet_neighbor_list(*arguments, allow_unseen_states=True)
    neighbor = partition.neighbor_list(
        space.free()[0], 1.0, 4.0, disable_cell_list=True, format=partition.Sparse
    ).allocate(jnp.asarray(WATER.positions, jnp.float32))
    traced = jax.jit(energy_fn)(
        jnp.asarray(WATER.positions, jnp.float32),
        neighbor,
        total_charge=jnp.int32(0),
        spin_multiplicity=jnp.int32(5),
    )
    assert np.isfinite(traced)


def test_overflow_gives_nan_energy_and_forces(potential):
    apart = Atoms("H4", positions=[[0, 0, 0], [1, 0, 0], [9, 0, 0], [10, 0, 0]])
    neighbor_fn, energy_fn = physnet_neighbor_list(
        space.free()[0], None, potential, apart.numbers
    )
    neighbor = neighbor_fn.allocate(jnp.asarray(apart.positions, jnp.float32))
    together = jnp.asarray(apart.positions, jnp.float32).at[2:, 0].add(-7.0)
    full = neighbor.update(together)
    energy, gradient = jax.jit(jax.value_and_grad(energy_fn))(together, full)
    assert np.isnan(energy)
    assert np.isnan(gradient).all()
    enough = neighbor_fn.allocate(together)
    assert np.isfinite(jax.jit(energy_fn)(together, enough))


def test_positions_of_another_dtype_or_shape(water):
    energy_fn, positions, neighbor = water
    with pytest.raises(
        ValueError, match=r"positions are float16 .*astype\(\"float32\"\)"
    ):
        energy_fn(positions.astype(jnp.float16), neighbor)
    with pytest.raises(ValueError, match=r"shape \(3, 3\) for 3 species, got \(2, 3\)"):
        energy_fn(positions[:2], neighbor)


def test_misspelt_keyword_is_not_swallowed(water):
    energy_fn, positions, neighbor = water
    with pytest.raises(TypeError, match="charge"):
        energy_fn(positions, neighbor, charge=1)


@pytest.mark.parametrize(
    ("box", "thickness"),
    [(7.9, "7.900"), ([9.0, 9.0, 7.0], "7.000"), (np.eye(3) * 9.0, None)],
    ids=["cube", "brick", "sheared"],
)
def test_thin_box_is_refused(potential, box, thickness):
    if thickness is None:  # sides of 9 Å and more, but faces only 6.36 Å apart
        box = box + np.array([[0.0, 9.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        thickness = "6.364"
    displacement = space.periodic_general(jnp.asarray(box, jnp.float32))[0]
    with pytest.raises(ValueError, match=f"{thickness} Å thick.*at least 8.0 Å"):
        physnet_neighbor_list(displacement, box, potential, WATER.numbers)


def test_box_that_shrinks_inside_jit_gives_nan(potential):
    box = jnp.float32(9.0)
    neighbor_fn, energy_fn = physnet_neighbor_list(
        space.periodic_general(box)[0],
        box,
        potential,
        WATER.numbers,
        fractional_coordinates=True,
    )
    positions = jnp.asarray(WATER.positions / 9.0 + 0.5, jnp.float32)
    neighbor = neighbor_fn.allocate(positions, box=box)
    compiled = jax.jit(energy_fn)
    assert np.isfinite(compiled(positions, neighbor, box=box))
    assert np.isnan(compiled(positions, neighbor, box=jnp.float32(7.9)))
    with pytest.raises(ValueError, match=r"7.900 Å thick"):
        energy_fn(positions, neighbor, box=7.9)


def test_box_and_displacement_must_fit(potential):
    periodic = space.periodic(20.0)[0]
    with pytest.raises(ValueError, match="wraps distances but box is None"):
        physnet_neighbor_list(periodic, None, potential, WATER.numbers)
    with pytest.raises(ValueError, match="must be periodic in the same box"):
        physnet_neighbor_list(periodic, 17.0, potential, WATER.numbers)
    with pytest.raises(ValueError, match="a length, three lengths or a 3x3 matrix"):
        physnet_neighbor_list(periodic, np.ones(2), potential, WATER.numbers)


def test_box_of_free_space_is_not_used_and_said_so(water, potential):
    energy_fn, positions, neighbor = water
    with pytest.warns(UserWarning, match="open system"):
        _, with_box = physnet_neighbor_list(
            space.free()[0], 20.0, potential, WATER.numbers
        )
    assert with_box(positions, neighbor) == energy_fn(positions, neighbor)


def test_dense_lists_are_refused(potential):
    with pytest.raises(ValueError, match="Sparse format"):
        physnet_neighbor_list(
            space.free()[0],
            None,
            potential,
            WATER.numbers,
            format=partition.NeighborListFormat.Dense,
        )
