"""The physics that every variant of the model must pass; subclasses name a variant.

Nearly all of the time is compilation, so the tests ask for the same few programs: one
molecule of up to four atoms, twenty-some molecules at once, one small periodic cell.
"""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from structures import (
    central_differences,
    displaced,
    formaldehyde,
    rotation,
    thin_cell,
)

from physnet_ase.config import ModelConfig
from physnet_ase.energy import AtomicTerms, graph_terms, terms_and_forces
from physnet_ase.graph import Capacity, Graph, build_graph, centred
from physnet_ase.molecules import Molecules
from physnet_ase.neighbors import find_pairs
from physnet_ase.potential import Potential
from physnet_ase.state import as_state
from physnet_ase.untrained import untrained_potential

STATES = ((0, 1), (1, 2), (-1, 2), (0, 3))


TOLERANCES = {
    "float64": 1e-10,  # sums in another order
    "float32": 1e-4,  # the same, seven digits of some eV and eV/Å
}
"""How far two routes to one number may differ, in eV, eV/Å or e."""


def graph_of(potential: Potential, molecules: Any, capacity: Capacity) -> Graph:
    """Molecules, each with its state, as the potential would see them."""
    states = [as_state(state) for _, state in molecules]
    batch = Molecules.from_atoms([atoms for atoms, _ in molecules], states)
    pairs = find_pairs(batch, potential.config.cutoff)
    return build_graph(centred(batch), pairs, capacity)


@partial(jax.jit, static_argnums=0)
def probe(
    config: ModelConfig, params: Any, graph: Graph, weights: jax.Array
) -> tuple[jax.Array, AtomicTerms]:
    """Gradient of Σ weights·energies by the positions, and the terms."""

    def energy(positions: jax.Array) -> tuple[jax.Array, AtomicTerms]:
        terms = graph_terms(config, params, graph, positions)
        return jnp.sum(weights * terms.energies), terms

    return jax.grad(energy, has_aux=True)(graph.positions)


def probed(potential: Potential, graph: Graph, weights: np.ndarray) -> Any:
    """Call :func:`probe` in float64; NumPy arrays."""
    with jax.enable_x64(True):
        return jax.device_get(
            probe(potential.config, potential.params, graph, weights * 1.0)
        )


PROBE = Capacity(molecules=4, atoms=16, pairs=64, long_pairs=32)


class PotentialContract:
    """Inherit, set ``fields``, and every test below runs on that configuration."""

    fields: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def potential(cls) -> Potential:
        """Random weights in float64: nothing in them obeys physics by training."""
        sizes = {"num_features": 12, "num_radial": 8, "num_blocks": 2, "cutoff": 4.0}
        config = ModelConfig(**(sizes | cls.fields))
        single = untrained_potential(config, (1, 6, 8), (*STATES, (1, 1)), seed=1)
        return single.astype("float64")

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_rigid_motions_and_permutations(self, potential, rng, dtype):
        tolerance, turn = TOLERANCES[dtype], rotation(rng)
        order = np.array([2, 0, 3, 1])
        atoms = formaldehyde()
        moved, turned, mirrored = atoms.copy(), atoms.copy(), atoms.copy()
        moved.positions += [10.0, -20.0, 30.0]
        turned.positions @= turn
        mirrored.positions @= -turn  # a rotation and an inversion
        structures = [atoms, moved, turned, mirrored, atoms[order], turned[order]]
        back = [np.eye(3), np.eye(3), turn.T, -turn.T, np.eye(3), turn.T]
        orders = [np.arange(4)] * 4 + [order] * 2
        wanted = ["energy", "forces", "charges"]
        if potential.config.spin_populations:
            wanted.append("spin_populations")
        rows = potential.evaluate(structures, STATES, wanted, dtype=dtype)
        for row, undo, atom_order in zip(rows, back, orders, strict=True):
            for result, first in zip(row, rows[0], strict=True):
                assert np.abs(first.forces).max() > 0.01
                assert result.energy == pytest.approx(first.energy, abs=tolerance)
                np.testing.assert_allclose(
                    result.forces @ undo,
                    first.forces[atom_order],
                    atol=tolerance,
                )
                for name in wanted[2:]:
                    np.testing.assert_allclose(
                        getattr(result, name),
                        getattr(first, name)[atom_order],
                        atol=tolerance,
                    )

    def test_single_precision_agrees_with_double(self, potential):
        atoms = [formaldehyde()] * 6
        double = potential.evaluate(atoms, STATES)[0]
        single = potential.evaluate(atoms, STATES, dtype="float32")[0]
        for one, two in zip(single, double, strict=True):
            assert one.energy == pytest.approx(two.energy, abs=1e-4)
            np.testing.assert_allclose(one.forces, two.forces, atol=1e-4)

    @pytest.mark.parametrize("state", STATES)
    def test_forces_are_minus_the_gradient_of_the_energy(self, potential, state):
        atoms, step = formaldehyde(), 1e-4
        [result] = potential.evaluate(atoms, [state])
        rows = potential.evaluate(displaced(atoms, step), [state])
        numeric = -central_differences([row[0].energy for row in rows], step)
        # central differences err by step²/6 times third derivatives
        np.testing.assert_allclose(result.forces.ravel(), numeric, atol=1e-6)
        # a molecule alone in space neither accelerates nor begins to spin
        np.testing.assert_allclose(result.forces.sum(axis=0), 0.0, atol=1e-10)
        torque = np.cross(atoms.positions, result.forces).sum(axis=0)
        np.testing.assert_allclose(torque, 0.0, atol=1e-10)

    def test_hessian_is_the_derivative_of_minus_the_forces(self, potential):
        atoms, step = formaldehyde(charge=1, spin=2), 1e-4
        hessian = potential.evaluate(atoms, properties=("hessian",)).hessian
        forces = [r.forces.ravel() for r in potential.evaluate(displaced(atoms, step))]
        numeric = -central_differences(forces, step)
        np.testing.assert_allclose(hessian, numeric, atol=1e-5)
        np.testing.assert_array_equal(hessian, hessian.T)

    def test_stress_and_forces_of_a_cell_thinner_than_the_cutoff(self, potential):
        atoms, step = thin_cell(), 1e-5

        def evaluate(one):
            return potential.evaluate(one, None, ("energy", "forces", "stress"))

        energies = []
        for i, j in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]:
            for sign in (1, -1):
                strain = np.eye(3)
                # Voigt's shear is shared by both sides of the diagonal
                strain[i, j] += 0.5 * sign * step
                strain[j, i] += 0.5 * sign * step
                copy = atoms.copy()
                copy.set_cell(atoms.cell.array @ strain, scale_atoms=True)
                energies.append(evaluate(copy).energy)
        result = evaluate(atoms)
        numeric = central_differences(energies, step) / atoms.get_volume()
        assert np.abs(result.stress).max() > 1e-3
        # 1e-14 eV of rounding over 2·step, and the error of central differences
        np.testing.assert_allclose(result.stress, numeric, atol=1e-8)
        energies = [evaluate(one).energy for one in displaced(atoms, 1e-4)]
        numeric = -central_differences(energies, 1e-4)
        np.testing.assert_allclose(result.forces.ravel(), numeric, atol=1e-6)

    def test_padding_changes_nothing(self, potential, rng):
        atoms = formaldehyde()
        [exact] = potential.evaluate(atoms, [(1, 2)])  # four slots for four atoms
        plus_one = graph_of(potential, [(atoms, (1, 2))], Capacity(2, 5, 13, 7))
        found = {k: np.asarray(v) for k, v in potential.run(plus_one, "forces").items()}
        np.testing.assert_allclose(found["forces"][:4], exact.forces, atol=1e-12)
        assert found["energies"].sum() == pytest.approx(exact.energy, abs=1e-12)
        for name in ("forces", "energies", "charges", "spin_populations", "features"):
            assert not found[name][4:].any()

        padded = graph_of(potential, [(atoms, (1, 2))], PROBE)
        gradient, terms = probed(potential, padded, padded.atom_mask)
        np.testing.assert_allclose(-gradient[:4], exact.forces, atol=1e-12)
        assert not gradient[4:].any()
        assert terms.energies.sum() == pytest.approx(exact.energy, abs=1e-12)
        padded.positions[4:] = rng.normal(scale=5.0, size=(12, 3))
        again, moved = probed(potential, padded, padded.atom_mask)
        np.testing.assert_array_equal(again, gradient)
        np.testing.assert_array_equal(moved.energies, terms.energies)

    def test_a_batch_gives_what_its_members_give_alone(self, potential):
        # sizes and states mixed; as many as the program of the other tests holds
        small = [
            molecule("H2O"),
            Atoms("O", info={"spin": 3}),
            Atoms("CO", [[0, 0, 0], [0, 0, 1.2]], info={"charge": -1}),
        ]
        ions = [formaldehyde(charge=c, spin=m) for c, m in STATES]
        together = potential.evaluate([*ions, *small] * 3 + ions * 2)
        for atoms, batched in zip([*ions, *small] * 3, together[:21], strict=True):
            alone = potential.evaluate(atoms)
            assert batched.energy == pytest.approx(alone.energy, abs=1e-11)
            np.testing.assert_allclose(batched.forces, alone.forces, atol=1e-11)

    def test_molecules_of_a_batch_do_not_see_each_other(self, potential):
        water, dioxide = molecule("H2O"), molecule("CO2")
        molecules = [(formaldehyde(), (1, 2)), (water, (-1, 2)), (dioxide, (0, 3))]
        graph = graph_of(potential, molecules, PROBE)
        middle = (graph.molecule_index == 1) & graph.atom_mask
        gradient, before = probed(potential, graph, middle)
        assert np.abs(gradient[middle]).max() > 0.01
        assert not gradient[~middle].any()
        graph.total_charge[[0, 2]] = 0, 1
        graph.spin_multiplicity[[0, 2]] = 1, 2
        after = probed(potential, graph, middle)[1]
        np.testing.assert_array_equal(after.energies[middle], before.energies[middle])
        assert np.abs(after.energies - before.energies)[:4].min() > 1e-6

    def test_weights_get_finite_gradients_of_a_force_loss(self, potential):
        # pads all sit at one point, with pairs among themselves; an atom alone has none
        molecules = [(formaldehyde(), (0, 3)), (Atoms("H"), (1, 1))]
        graph = graph_of(potential, molecules, PROBE)

        def loss(params):
            terms, forces = terms_and_forces(potential.config, params, graph)
            return jnp.sum(forces**2) + jnp.sum(terms.energies**2)

        with jax.enable_x64(True):
            gradient = jax.device_get(jax.jit(jax.grad(loss))(potential.params))
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            assert np.isfinite(leaf).all(), path
        assert np.abs(gradient["output_0"]["head"]["kernel"]).max() > 1e-3
        assert np.abs(gradient["radial"]["centers"]).max() > 1e-6

    def test_energy_and_force_are_continuous_at_the_cutoff(self, potential):
        def at(gap):
            atoms = Atoms("CO", [[0, 0, 0], [0, 0, potential.config.cutoff + gap]])
            wanted = ("energy", "forces", "features")
            return potential.evaluate(atoms, [(1, 2)], wanted)[0]

        below, above, beyond, far = at(-1e-10), at(1e-10), at(0.3), at(3.0)
        assert above.energy == pytest.approx(below.energy, abs=1e-9)
        np.testing.assert_allclose(above.forces, below.forces, atol=1e-9)
        # beyond are a cation and a neutral atom, which do not feel each other
        np.testing.assert_array_equal(far.features, beyond.features)
        np.testing.assert_allclose(far.forces, 0.0, atol=1e-9)
        assert far.energy == pytest.approx(above.energy, abs=1e-9)

    def test_cell_is_continuous_when_images_leave_the_list(self, potential):
        cutoff = potential.config.cutoff
        inside, outside = (
            potential.evaluate(
                thin_cell(cutoff + gap), None, ("energy", "forces", "stress")
            )
            for gap in (-1e-10, 1e-10)
        )
        assert outside.energy == pytest.approx(inside.energy, abs=1e-9)
        np.testing.assert_allclose(outside.forces, inside.forces, atol=1e-9)
        np.testing.assert_allclose(outside.stress, inside.stress, atol=1e-9)

    @pytest.mark.parametrize(
        ("symbol", "state"),
        [("H", (1, 1)), ("C", (0, 3)), ("C", (0, 1)), ("O", (1, 2)), ("O", (-1, 2))],
    )
    def test_isolated_atoms_and_ions_are_at_rest(self, potential, symbol, state):
        wanted = ("energy", "forces", "charges")
        [result] = potential.evaluate(Atoms(symbol), [state], wanted)
        assert np.isfinite(result.energy)
        np.testing.assert_array_equal(result.forces, np.zeros((1, 3)))
        assert result.charges[0] == pytest.approx(state[0], abs=1e-12)

    def test_charges_sum_to_the_charge_and_spins_to_2s(self, potential):
        for charge, multiplicity in STATES:
            molecules = [(formaldehyde(), (charge, multiplicity))]
            graph = graph_of(potential, molecules, PROBE)
            terms = probed(potential, graph, graph.atom_mask)[1]
            assert terms.charges.sum() == pytest.approx(charge, abs=1e-10)
            assert terms.spin_populations.sum() == pytest.approx(
                multiplicity - 1, abs=1e-10
            )
            assert terms.charges[:4].std() > 1e-3

    def test_every_state_has_another_energy(self, potential):
        row = potential.evaluate([formaldehyde()] * 6, STATES)[0]
        assert np.diff(np.sort([result.energy for result in row])).min() > 1e-3

    def test_a_neutral_singlet_gets_exactly_nothing_from_conditioning(
        self, potential, rng
    ):
        params = {
            key: jax.tree.map(lambda x: x + rng.normal(size=x.shape), value)
            if key.startswith("state_")
            else value
            for key, value in potential.params.items()
        }
        other = Potential(potential.metadata, params, "float64")
        for state in STATES:
            graph = graph_of(potential, [(formaldehyde(), state)], PROBE)
            before, after = (
                probed(p, graph, graph.atom_mask)[1] for p in (potential, other)
            )
            if state == (0, 1):
                np.testing.assert_array_equal(after.energies, before.energies)
                np.testing.assert_array_equal(after.features, before.features)
            else:
                assert np.abs(after.energies - before.energies)[:4].min() > 1e-6

    def test_far_fragments(self, potential):
        """A + B, each in a state of its own, whatever a spectator is far away."""
        one, two = (Atoms("CO", [[0, 0, x], [0, 0, x + 1.2]]) for x in (0.0, 1e6))
        alone = [r.energy for r in potential.evaluate(one, STATES)]
        wanted = ("energy", "forces", "charges")
        # positions of 1e6 Å are good to 1e-10 Å
        for state, own, result in zip(
            STATES, alone, potential.evaluate(one + two, STATES, wanted), strict=True
        ):
            spectator = alone[0] if state == (0, 1) else min(alone[0], alone[3])
            assert result.energy == pytest.approx(spectator + own, abs=1e-7)
            held = [result.charges[:2].sum(), result.charges[2:].sum()]
            assert sorted(held) == pytest.approx(sorted([0, state[0]]), abs=1e-7)

    @pytest.mark.parametrize("state", STATES)
    def test_fragments_part_smoothly(self, potential, state):
        """Energy and forces through the range in which a joint loosens."""
        cutoff, step = potential.config.cutoff, 1e-4

        def at(gap):
            atoms = Atoms("COOC", [[0, 0, 0], [0, 0, 1.2], [0, 1.1, 0], [0, 0, 0]])
            atoms.positions[2:] += [0.3, 0.0, 1.2 + gap * cutoff]
            return atoms

        atoms = at(0.85)
        [result] = potential.evaluate(atoms, [state])
        rows = potential.evaluate(displaced(atoms, step), [state])
        numeric = -central_differences([row[0].energy for row in rows], step)
        np.testing.assert_allclose(result.forces.ravel(), numeric, atol=1e-6)
        for edge in (0.7, 0.72, 1.0):
            below, above = (
                potential.evaluate(at(edge + change), [state])[0]
                for change in (-1e-9, 1e-9)
            )
            assert below.energy == pytest.approx(above.energy, abs=1e-6)
            np.testing.assert_allclose(below.forces, above.forces, atol=1e-5)
