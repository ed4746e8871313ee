"""The network's building blocks against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from physnet_ase.config import ModelConfig
from physnet_ase.graph import build_graph, centred
from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import find_pairs
from physnet_ase.network.interaction import (
    degree_components,
    shifted_softplus,
    tensor_of_vectors,
    tensor_times_vector,
)
from physnet_ase.network.radial import RadialBasis, initial_centers, smooth_cutoff
from physnet_ase.state import ElectronicState
from physnet_ase.untrained import untrained_potential

TINY = {"num_features": 8, "num_radial": 6, "cutoff": 2.0}


def test_smooth_cutoff_values_and_derivatives():
    # 1 - 6/2⁵ + 15/2⁴ - 10/2³ = 1/2 at half way
    values = smooth_cutoff(jnp.asarray([0.0, 2.0, 4.0, 9.0]), 4.0)
    np.testing.assert_allclose(values, [1.0, 0.5, 0.0, 0.0], atol=1e-6)

    def phi(r):
        return smooth_cutoff(r, 4.0)

    with jax.enable_x64(True):
        for end in (1e-9, 4.0 - 1e-9):
            slope, curvature = jax.grad(phi), jax.grad(jax.grad(phi))
            assert float(slope(end)) == pytest.approx(0.0, abs=1e-8)
            assert float(curvature(end)) == pytest.approx(0.0, abs=1e-7)
        # -30x² + 60x³ - 30x⁴ over the cutoff, at x = 1/2
        assert float(jax.grad(phi)(2.0)) == pytest.approx(-1.875 / 4.0)


def test_shifted_softplus_is_zero_at_zero_and_linear_far_out():
    values = shifted_softplus(jnp.asarray([0.0, 1.0, 20.0, -50.0]))
    # ln(e/2 + 1/2) = 0.6201145
    expected = [0.0, 0.6201145, 20.0 - np.log(2.0), -np.log(2.0)]
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert float(values[0]) == 0.0


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-14)]
)
def test_shifted_softplus_is_precise_with_its_derivatives(dtype, tolerance):
    exact = np.concatenate([np.linspace(-30.0, 30.0, 4001), [0.0, 1e-9, -1e-9]])
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(exact, dtype)
        exact = np.asarray(x, np.float64)
        found = shifted_softplus(x)
        assert found.dtype == dtype
        reference = np.logaddexp(exact, 0.0) - np.log(2.0)
        np.testing.assert_allclose(found, reference, rtol=tolerance, atol=tolerance)
        slope = jax.vmap(jax.grad(shifted_softplus))(x)
        curvature = jax.vmap(jax.grad(jax.grad(shifted_softplus)))(x)
    sigmoid = np.exp(-np.logaddexp(-exact, 0.0))
    np.testing.assert_allclose(slope, sigmoid, atol=tolerance)
    np.testing.assert_allclose(curvature, sigmoid * (1.0 - sigmoid), atol=tolerance)


def test_radial_basis_starts_at_the_published_centres_and_widths():
    config = ModelConfig(num_radial=4, cutoff=3.0)
    centers, width = initial_centers(4, 3.0)
    lowest = np.exp(-3.0)
    np.testing.assert_allclose(centers, lowest + (1 - lowest) * np.arange(4) / 3)
    assert width == pytest.approx((4 / (2 * (1 - lowest))) ** 2)
    basis = RadialBasis(config)
    distances = jnp.asarray([0.5, 1.5, 2.9, 3.0, 3.5])
    found = basis.apply(basis.init(jax.random.key(0), distances), distances)
    r = np.asarray(distances)[:, None]
    x = np.minimum(r / 3.0, 1.0)
    cutoff = 1 - 6 * x**5 + 15 * x**4 - 10 * x**3
    expected = cutoff * np.exp(-width * (np.exp(-r) - centers) ** 2)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.asarray(found)[3:].any()


def test_components_of_each_degree_follow_the_addition_theorem(rng):
    vectors = rng.normal(size=(20, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors.T
    p, d = degree_components(jnp.asarray(vectors, jnp.float32), 2)
    # Legendre polynomials of the angle: norm 1 on the diagonal
    np.testing.assert_allclose(p @ p.T, cosine, atol=1e-6)
    np.testing.assert_allclose(d @ d.T, 1.5 * cosine**2 - 0.5, atol=1e-6)
    assert len(degree_components(jnp.asarray(vectors, jnp.float32), 1)) == 1
    assert degree_components(jnp.asarray(vectors, jnp.float32), 0) == []


def test_products_of_vectors_and_tensors_are_those_of_matrices(rng):
    unit, other = jnp.asarray(rng.normal(size=(2, 20, 3)), jnp.float32)
    unit = unit / jnp.linalg.norm(unit, axis=1, keepdims=True)
    p, d = degree_components(unit, 2)
    np.testing.assert_allclose(tensor_of_vectors(p, p), d, atol=1e-6)
    along = jnp.sum(unit * other, axis=1, keepdims=True) * unit
    turned = tensor_times_vector(d, other)
    np.testing.assert_allclose(turned, 1.5 * along - 0.5 * other, atol=1e-6)


@pytest.mark.parametrize(("max_degree", "sees"), [(0, False), (1, True), (2, True)])
def test_one_block_tells_angles_apart_only_with_angular_messages(max_degree, sees):
    config = ModelConfig(
        **TINY, num_blocks=1, max_degree=max_degree, electrostatics=False
    )
    potential = untrained_potential(config, (1, 8)).astype("float64")
    energies = []
    for angle in (2.0, 3.0):  # the hydrogens stay beyond each other's cutoff
        turn = 1.2 * np.array([0.0, np.sin(angle), np.cos(angle)])
        atoms = Atoms("OHH", [[0, 0, 0], [0, 0, 1.2], turn])
        energies.append(potential.evaluate(atoms).energy)
    assert (abs(energies[1] - energies[0]) > 1e-6) == sees
    if not sees:
        assert energies[1] == pytest.approx(energies[0], abs=1e-12)


def test_parameters_have_no_layer_at_zero_and_depend_on_the_seed_only():
    config = ModelConfig(**TINY, num_blocks=2, conditioning="embedding")
    one, same, other = (untrained_potential(config, seed=s).params for s in (0, 0, 1))
    for path, leaf in jax.tree_util.tree_leaves_with_path(one):
        name = path[-1].key
        if name in ("kernel", "embedding"):
            assert np.count_nonzero(leaf) == leaf.size, path
    equal = jax.tree.map(np.array_equal, one, same)
    assert all(jax.tree.leaves(equal))
    kernel = other["interaction_0"]["output"]["kernel"]
    assert not np.allclose(kernel, one["interaction_0"]["output"]["kernel"])
    # semi-orthogonal, with Glorot's variance 2/(8 + 8) in 8 columns of norm 1
    square = one["interaction_0"]["output"]["kernel"]
    np.testing.assert_allclose(square @ square.T, np.eye(8), atol=1e-5)


def test_nonhierarchicality_compares_blocks_by_their_squares():
    config = ModelConfig(**TINY, num_blocks=2, electrostatics=False)
    potential = untrained_potential(config, (1, 8), seed=2)
    heads = [potential.params[f"output_{b}"]["head"]["kernel"] for b in (0, 1)]
    heads[1][:, 0] = 0.0  # the second block adds no energy: perfectly hierarchical
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 1.0]])
    radical = Molecules.from_atoms([atoms], [ElectronicState(0, 2)])
    graph = build_graph(centred(radical), find_pairs(radical, 2.0))
    assert not np.asarray(potential.run(graph, "terms")["nonhierarchicality"]).any()
