"""Models say when they do not know a molecule, and are quiet when they do."""

import json
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from physnet_ase import (
    PhysNetCalculator,
    load_potential,
    simulate,
    untrained_potential,
)
from physnet_ase.checkpoint import ModelMetadata
from physnet_ase.config import ModelConfig
from physnet_ase.familiarity import descriptors, environments_of
from physnet_ase.molecules import Molecules
from physnet_ase.potential import Potential, unfamiliar_is_fine

TINY = ModelConfig(num_features=8, num_radial=4, num_blocks=1, cutoff=4.0)


def thermal(name, count, seed, size=0.04):
    """Geometries around a molecule's minimum."""
    atoms = molecule(name)
    atoms.set_initial_magnetic_moments(None)
    rng = np.random.default_rng(seed)
    found = [atoms.copy() for _ in range(count)]
    for one in found:
        one.positions += rng.normal(scale=size, size=one.positions.shape)
    return found


def in_two_parts(*parts):
    """Of parts that hold each other's molecules in other geometries."""
    return environments_of(parts, [np.ones(len(part), bool) for part in parts])


@pytest.fixture(scope="module")
def potential():
    """A model that has seen water and methanol."""
    seen, checked = (
        Molecules.from_atoms(thermal("H2O", 40, s) + thermal("CH3OH", 40, s + 1))
        for s in (0, 10)
    )
    base = untrained_potential(TINY, (1, 6, 8))
    environments = in_two_parts(seen, checked)
    metadata = base.metadata.model_copy(update={"environments": environments})
    return Potential(metadata, base.params)


def test_known_molecules_are_familiar_and_others_are_not(potential):
    fresh = thermal("H2O", 60, 20) + thermal("CH3OH", 60, 21)
    verdicts = potential.familiarity(fresh)
    assert np.mean([v.unfamiliar for v in verdicts]) < 0.1
    for name in ("CH3CHO", "C2H4", "CO2", "HCOOH", "C6H6", "CH3CH2OCH3"):
        verdict = potential.familiarity(thermal(name, 1, 0)[0])
        assert verdict.unfamiliar, name
        assert verdict.score == verdict.atom_scores.max()


def test_a_geometry_that_sets_the_threshold_is_familiar():
    # in all its states it is most of what is left out, and lies at the quantile itself
    seen = Molecules.from_atoms(thermal("H2O", 5, 0))
    unknown = np.zeros(len(seen), bool)
    for seed in range(12):
        [one] = thermal("H2O", 1, 50 + seed, size=0.3)
        left = Molecules.from_atoms([one] * 8)
        threshold = (
            environments_of([seen, left], [unknown, np.ones(8, bool)])
            .of_element["O"]
            .threshold
        )
        assert threshold > 0.15
        others = environments_of([seen], [unknown])
        assert others.of_element["O"].threshold == 0.15
        scores = others.scores(left, TINY.cutoff)[left.values["atomic_numbers"] == 8]
        assert 0.15 * scores.max() == pytest.approx(threshold, abs=1.1e-4)
        assert 0.15 * scores.max() <= threshold


def test_thresholds_come_from_what_each_part_knows_of_the_others():
    many = [Molecules.from_atoms(thermal("H2O", 300, seed)) for seed in (0, 1)]
    rare = Molecules.from_atoms(thermal("CH3OH", 3, 2))
    strange = Molecules.from_atoms(thermal("C6H6", 1, 3))
    parts = [*many, rare, strange]
    known = [np.ones(len(p), bool) for p in many] + [
        np.zeros(3, bool),
        np.zeros(1, bool),
    ]
    found = environments_of(parts, known).of_element
    # neither methanol nor benzene is known in another part, and sets no threshold
    assert found["O"].threshold == in_two_parts(*many).of_element["O"].threshold
    # too few carbon atoms to tell: the strictest of the other elements
    assert found["C"].threshold == min(found["O"].threshold, found["H"].threshold)
    again = environments_of(
        [rare, strange], known[2:], like=environments_of(parts, known)
    ).of_element
    for symbol in "CHO":
        assert again[symbol].threshold == found[symbol].threshold


def test_the_unfamiliar_atoms_are_named(potential):
    atoms = molecule("CH3OH")
    far = atoms.copy()
    far += Atoms("H", [atoms.positions[0] + [0.0, 0.0, 1.3]])
    del far.info
    far.info = {"charge": 1}
    verdict = potential.familiarity(Atoms(far, info={"charge": 0, "spin": 2}))
    assert verdict.score == np.inf  # radicals were never seen
    with pytest.warns(
        UserWarning,
        match=r"C2H6O is unfamiliar: .*C\d.*\(saturated carbon, bonded to C, .*above 1",
    ):
        potential.evaluate(thermal("CH3CH2OH", 1, 0)[0])


def test_one_warning_for_many_structures(potential):
    several = [*thermal("H2O", 3, 3), *thermal("C2H4", 2, 1)]
    with pytest.warns(UserWarning, match="C2H4 is unfamiliar") as caught:
        potential.evaluate(several, properties=("energy",))
    assert len(caught) == 1
    assert "2 of 5 structures" in str(caught[0].message)


def test_what_is_on_the_way_is_not_even_scored(potential, monkeypatch):
    asked = []
    known = Potential.known
    monkeypatch.setattr(
        Potential, "known", lambda self, some: asked.append(some) or known(self, some)
    )
    atoms = molecule("C6H6")
    with unfamiliar_is_fine():
        silent = potential.evaluate(atoms)
    assert not asked
    with pytest.warns(UserWarning, match="is unfamiliar"):
        assert potential.evaluate(atoms).energy == silent.energy
    assert len(asked) == 1


def test_calculators_warn_once_and_refuse_where_strict(potential):
    atoms = thermal("C2H4", 1, 0)[0]
    atoms.calc = PhysNetCalculator(potential)
    with pytest.warns(UserWarning, match="C2H4 is unfamiliar"):
        atoms.get_forces()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.positions += 0.001  # the next step of a relaxation
        atoms.get_forces()
        water = thermal("H2O", 1, 5)[0]
        water.calc = PhysNetCalculator(potential)
        water.get_forces()
    atoms.info.update(charge=0, spin_multiplicity=1)
    atoms.calc = PhysNetCalculator(potential, strict=True)
    with pytest.raises(ValueError, match=r"C2H4: the surroundings of .* refuses it"):
        atoms.get_forces()


def test_models_without_a_record_say_nothing():
    model = untrained_potential(TINY, (1, 6, 8))
    assert model.familiarity(molecule("H2O")) is None
    assert model.familiarity([molecule("H2O")] * 2) == [None, None]


def test_the_record_survives_the_model_directory(potential, tmp_path):
    loaded = load_potential(potential.save(tmp_path / "model"))
    atoms = thermal("CH3OH", 1, 8)[0]
    before, after = (p.familiarity(atoms).atom_scores for p in (potential, loaded))
    np.testing.assert_array_equal(before, after)
    content = json.loads((tmp_path / "model" / "model.json").read_text())
    assert ModelMetadata.model_validate(
        {key: value for key, value in content.items() if key != "sha256"}
    )


def test_scores_do_not_depend_on_pose_order_or_box(potential, rng):
    atoms = thermal("CH3OH", 1, 4)[0]
    scores = potential.familiarity(atoms).atom_scores
    turned = atoms.copy()
    turned.rotate(70, (1, 2, 3))
    turned.positions += 5.0
    np.testing.assert_allclose(potential.familiarity(turned).atom_scores, scores)
    order = rng.permutation(len(atoms))
    np.testing.assert_allclose(
        potential.familiarity(atoms[order]).atom_scores, scores[order]
    )
    boxed = atoms.copy()
    boxed.set_cell([20.0] * 3)
    boxed.pbc = True
    boxed.positions += 9.0
    boxed.wrap()
    np.testing.assert_allclose(potential.familiarity(boxed).atom_scores, scores)


def test_descriptors_are_smooth_at_their_reach():
    def at(distance):
        atoms = Atoms("OH", [[0, 0, 0], [0, 0, distance]], info={"spin": 2})
        return descriptors(Molecules.from_atoms([atoms]), [1, 8])[0]

    np.testing.assert_allclose(at(4.4999), at(4.5001), atol=1e-6)
    assert np.abs(at(1.0) - at(1.1)).max() > 0.05


def test_the_shipped_model_knows_what_it_was_trained_on():
    model = load_potential("states-dft-small")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("H2O", "NH3", "CH4", "H2CO", "C2H4"):
            model.evaluate(molecule(name), [(0, 1)], ("energy",))
    for name in ("C6H6", "CH3CN", "CH3NO2", "N2O", "C4H4NH", "CH3CONH2"):
        assert model.familiarity(molecule(name)).unfamiliar, name


def test_dynamics_ends_where_the_model_knows_nothing(potential):
    water = molecule("H2O")
    momenta = np.zeros((3, 3))
    momenta[1] = water.positions[1] - water.positions[0]  # one hydrogen leaves
    water.set_momenta(momenta)
    options = {"steps": 40, "save_every": 2, "stop_familiarity": 3.0}
    found = simulate.run(water, potential, **options)
    assert "above stop_familiarity = 3" in found.stopped
    assert found.familiarity[-1] > 3.0
    assert (found.familiarity[:-1] <= 3.0).all()
    score = potential.familiarity(found.atoms).score
    assert score == pytest.approx(found.familiarity[-1], rel=1e-3)
