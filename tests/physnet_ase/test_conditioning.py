"""How charge and spin enter: what is shared, what is exactly nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from physnet_ase.config import ModelConfig
from physnet_ase.graph import Capacity, build_graph, centred
from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import find_pairs
from physnet_ase.network.conditioning import (
    QueryScore,
    StateConditioning,
    StateSignal,
    signed_signal,
)
from physnet_ase.state import as_state

STATES = [(0, 1), (1, 2), (-2, 1), (0, 3)]
SIZES = {"num_features": 8, "charge_embedding_size": 3, "spin_embedding_size": 5}


def conditioning_graph():
    """Methane in four states, and a lone oxygen; a filler row and pads at the end."""
    atoms = [molecule("CH4")] * 4 + [Atoms("O")]
    states = [as_state(state) for state in [*STATES, (1, 2)]]
    molecules = Molecules.from_atoms(atoms, states)
    capacity = Capacity(7, 25, 90, 50)
    graph = build_graph(centred(molecules), find_pairs(molecules, 3.0), capacity)
    return jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x)),
        graph._replace(
            positions=graph.positions.astype(np.float32),
            shifts=graph.shifts.astype(np.float32),
            cell=graph.cell.astype(np.float32),
        ),
    )


def random_params(module, *arguments):
    """Nothing at zero, kernels and tables alike."""
    params = module.init(jax.random.key(0), *arguments)
    rng = np.random.default_rng(5)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params
    )


def test_gain_and_loss_of_electrons_have_weights_of_their_own():
    signal = signed_signal(jnp.asarray([2.0, 0.0, -1.0]))
    np.testing.assert_array_equal(signal, [[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize("conditioning", ["attention", "embedding"])
@pytest.mark.parametrize("kind", ["charge", "spin"])
def test_signal_is_zero_for_the_neutral_singlet_only(conditioning, kind):
    graph = conditioning_graph()
    signal = StateSignal(ModelConfig(conditioning=conditioning, **SIZES), kind)
    variables = random_params(signal, graph, np.dtype("float32"))
    found = np.asarray(signal.apply(variables, graph, np.dtype("float32")))
    width = {
        "attention": {"charge": 2, "spin": 1},
        "embedding": {"charge": 3, "spin": 5},
    }
    assert found.shape == (7, width[conditioning][kind])
    moved = [0.0 if kind == "charge" else 1.0]
    values = graph.total_charge if kind == "charge" else graph.spin_multiplicity
    at_rest = np.asarray(values) == moved[0]
    assert not found[at_rest].any()
    assert np.abs(found[~at_rest]).max(axis=1).min() > 0.0


@pytest.mark.parametrize("conditioning", ["attention", "embedding"])
def test_state_is_shared_among_the_atoms_of_a_molecule_of_any_size(conditioning, rng):
    graph = conditioning_graph()
    module = StateConditioning(ModelConfig(conditioning=conditioning, **SIZES))
    features = jnp.asarray(rng.normal(size=(25, 8)), jnp.float32)
    variables = random_params(module, features, graph)
    # without its second half a residual block is the identity: shares themselves show
    for kind in ("charge", "spin"):
        block = variables["params"][f"{kind}_residual"]["residual"]
        block["kernel"] = jnp.zeros_like(block["kernel"])
    added = np.asarray(module.apply(variables, features, graph))
    index, mask = np.asarray(graph.molecule_index), np.asarray(graph.atom_mask)
    assert np.isfinite(added).all()
    assert not added[~mask].any()
    totals = np.stack([added[(index == m) & mask].sum(axis=0) for m in range(5)])
    np.testing.assert_array_equal(totals[0], 0.0)
    np.testing.assert_allclose(totals[1], totals[4], atol=1e-5)  # CH4⁺ and O⁺
    assert np.abs(totals[2] - totals[1]).max() > 0.1
    carbon, hydrogen = added[(index == 1) & mask][:2]
    assert np.abs(carbon - hydrogen).max() > 1e-3  # shares differ by atom


@pytest.mark.parametrize("conditioning", ["attention", "embedding"])
def test_whole_conditioning_adds_exact_zeros_to_neutral_singlets(conditioning, rng):
    graph = conditioning_graph()
    module = StateConditioning(ModelConfig(conditioning=conditioning, **SIZES))
    features = jnp.asarray(rng.normal(size=(25, 8)), jnp.float32)
    variables = random_params(module, features, graph)
    added = np.asarray(module.apply(variables, features, graph))
    index = np.asarray(graph.molecule_index)
    assert not added[index == 0].any()
    assert np.abs(added[index == 1]).min() > 0.0


def test_query_score_is_the_product_of_query_and_key(rng):
    graph = conditioning_graph()
    features, key, kernel, bias = (
        jnp.asarray(rng.normal(size=size), jnp.float32)
        for size in ((25, 8), (7, 8), (8, 8), (8,))
    )
    params = {"params": {"kernel": kernel, "bias": bias}}
    found = QueryScore().apply(params, features, key, graph)
    query = features @ kernel + bias
    expected = jnp.sum(query * key[graph.molecule_index], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-4)
