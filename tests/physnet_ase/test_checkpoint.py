"""The model directory: bit-identical round trips, and an error for every damage."""

import json
import pickle
import shutil

import jax
import numpy as np
import pytest
from ase.build import molecule
from safetensors.numpy import load_file, save_file

import physnet_ase
from physnet_ase import PhysNetCalculator, load_potential
from physnet_ase.checkpoint import ModelMetadata, StateRecord
from physnet_ase.config import ModelConfig
from physnet_ase.potential import Potential, pretrained_names
from physnet_ase.untrained import untrained_potential

TINY = ModelConfig(num_features=8, num_radial=4, num_blocks=2, cutoff=3.0)
HEAD = "output_0/head/kernel"


@pytest.fixture(scope="module")
def potential():
    base = untrained_potential(TINY, (1, 8))
    metadata = ModelMetadata(
        name="tiny",
        config=TINY,
        element_energies={"O": -2041.123456789012, "H": -13.6},
        states=[
            StateRecord(charge=0, multiplicity=1, count=7),
            StateRecord(charge=1, multiplicity=2, reference_energy=12.6),
        ],
        levels_of_theory=["PBE/def2-SVP"],
        training={"steps": 10},
        validation_errors=[{"state": "0, 1", "energy_mae": 0.1}],
    )
    return Potential(metadata, base.params)


@pytest.fixture
def model(potential, tmp_path):
    return potential.save(tmp_path / "model")


def test_saved_and_loaded_potential_is_bit_identical(potential, model):
    loaded = load_potential(model)
    assert sorted(file.name for file in model.iterdir()) == [
        "model.json",
        "weights.safetensors",
    ]
    assert all(
        jax.tree.leaves(jax.tree.map(np.array_equal, loaded.params, potential.params))
    )
    assert loaded.metadata == potential.metadata.model_copy(
        update={"package_version": physnet_ase.__version__}
    )
    assert (loaded.elements, loaded.states) == (potential.elements, potential.states)
    assert loaded.path == model
    wanted = ("energy", "forces", "charges")
    before = potential.evaluate(molecule("H2O"), [(0, 1), (1, 2)], wanted)
    after = load_potential(str(model)).evaluate(
        molecule("H2O"), [(0, 1), (1, 2)], wanted
    )
    for one, two in zip(before, after, strict=True):
        assert one.energy == two.energy
        np.testing.assert_array_equal(one.forces, two.forces)
        np.testing.assert_array_equal(one.charges, two.charges)


def test_model_json_holds_what_a_reader_needs(model):
    content = json.loads((model / "model.json").read_text())
    assert content["schema_version"] == 1
    assert content["package_version"] == physnet_ase.__version__
    assert content["units"]["energy"] == "eV"
    assert content["element_energies"]["O"] == -2041.123456789012
    assert content["states"][0] == {
        "charge": 0,
        "multiplicity": 1,
        "count": 7,
        "reference_energy": 0.0,
    }
    assert content["electrostatics"].startswith("all pairs in open")
    assert ModelConfig.model_validate(content["config"]) == TINY


def test_precision_survives(potential, model, tmp_path):
    potential.astype("float64").save(tmp_path / "double")
    again = load_potential(tmp_path / "double")
    assert again.dtype == np.float32
    for one, two in zip(
        jax.tree.leaves(again.params), jax.tree.leaves(potential.params), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_saving_replaces_a_model_and_nothing_else(potential, model, tmp_path):
    other = untrained_potential(TINY, (1, 8), seed=3)
    other.save(model)
    head = load_potential(model).params["output_0"]["head"]["kernel"]
    np.testing.assert_array_equal(head, other.params["output_0"]["head"]["kernel"])
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="notes exists and is not a model"):
        potential.save(folder)
    with pytest.raises(FileExistsError, match=r"note\.txt exists and is not a model"):
        potential.save(folder / "note.txt")
    assert (folder / "note.txt").read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model", "notes"]


def test_save_makes_folders_and_uses_an_empty_one(potential, tmp_path):
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "a" / "b"):
        assert load_potential(potential.save(target)).elements == (1, 8)


def test_unknown_name_lists_the_pretrained_ones():
    names = pretrained_names()
    with pytest.raises(FileNotFoundError, match="neither a directory nor") as error:
        load_potential("no-such-model")
    assert all(name in str(error.value) for name in names)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_missing_file_is_named(model, name):
    (model / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing; a model direct"):
        load_potential(model)


@pytest.mark.parametrize("size", [0, 7, 200, -1])
def test_truncated_weights_are_refused(model, size):
    file = model / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"weights\.safetensors cannot be read"):
        load_potential(model)


def test_truncated_json_is_refused(model):
    file = model / "model.json"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(ValueError, match=r"model\.json is not valid JSON"):
        load_potential(model)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"model\.json is not valid JSON"):
        load_potential(model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"schema_version": 2},
            r"schema_version 2, this package reads 1; install a newer",
        ),
        ({"schema_version": None}, "has no schema_version; it is not a model of"),
        ({"element_energies": {}}, "key 'element_energies': .*element symbols"),
        ({"element_energies": {"Xq": 1.0}}, r"got \['Xq'\]"),
        ({"states": []}, "key 'states'"),
        ({"colour": "red"}, "key 'colour': Extra inputs are not permitted"),
        ({"config": {"num_block": 2}}, r"key 'config\.num_block'"),
    ],
)
def test_json_that_says_something_else_is_refused(model, change, words):
    file = model / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=rf"model\.json.*{words}"):
        load_potential(model)


@pytest.mark.parametrize("text", ["[]", "3", '"model"'])
def test_json_of_another_kind_is_refused(model, text):
    (model / "model.json").write_text(text)
    with pytest.raises(ValueError, match="has no schema_version"):
        load_potential(model)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda w: w.pop(HEAD), rf"lacks weight '{HEAD}' of shape \(8, 3\)"),
        (
            lambda w: w.update({HEAD: w[HEAD][:, :2].copy()}),
            rf"'{HEAD}' has shape \(8, 2\), .* needs \(8, 3\)",
        ),
        (
            lambda w: w.update({"extra/kernel": np.ones(2)}),
            r"holds weight 'extra/kernel' of shape \(2,\), which",
        ),
        (lambda w: w[HEAD].fill(np.nan), rf"'{HEAD}' holds NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit_are_named_with_both_shapes(model, damage, words):
    weights = load_file(model / "weights.safetensors")
    damage(weights)
    save_file(weights, model / "weights.safetensors")
    with pytest.raises(ValueError, match=words):
        load_potential(model)


def test_weights_of_another_configuration_are_refused(model):
    file = model / "model.json"
    content = json.loads(file.read_text())
    content["config"]["num_blocks"] = 1
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"'atomic_1_0/inner/bias' .*does not have"):
        load_potential(model)


def test_potential_travels_to_another_process(potential):
    # ASE and multiprocessing pickle calculators; no file of ours holds a pickle
    copied = pickle.loads(pickle.dumps(potential))
    assert copied.evaluate(molecule("H2O")).energy == pytest.approx(
        potential.evaluate(molecule("H2O")).energy, abs=1e-12
    )
    assert copied.metadata == potential.metadata


def rewrite(file, change):
    """Store the weights again after ``change``, as another program would."""
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda w: w.update({HEAD: (100 * w[HEAD]).astype(np.int32)}),
            f"'{HEAD}' holds int32, expected floating-point",
        ),
        (lambda w: w.update({HEAD: w[HEAD] * 1e30}), "is not the file that model.json"),
        (lambda w: w[HEAD].fill(np.inf), "holds NaN or infinity"),
        (lambda w: w[HEAD].__setitem__((0, 0), 0.1234), "is not the file that"),
    ],
    ids=["whole numbers", "huge", "infinite", "one number"],
)
def test_damaged_weights_are_found_when_they_are_loaded(model, change, words):
    rewrite(model / "weights.safetensors", change)
    with pytest.raises(ValueError, match=words):
        load_potential(model)


def changed(content, path, value):
    """The content with one entry, named by its path, replaced."""
    *way, last = path
    place = content
    for key in way:
        place = place[key]
    place[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("config", "cutoff"), 5.5, "was changed after it was written"),
        (("element_energies", "H"), -13.7, "was changed after it was written"),
        (("states", 0, "reference_energy"), 0.2, "was changed after it was written"),
        (("element_energies", "H"), float("nan"), "element_energies.*finite"),
        (("config", "cutoff"), float("inf"), r"config\.cutoff.*finite"),
        (("config", "num_blocks"), 10**6, r"config\.num_blocks.*less than or equal"),
        (("sha256",), {}, "was changed after it was written"),
        (("sha256", "weights"), "0" * 64, "is not the file that model.json"),
    ],
)
def test_a_changed_model_json_is_found(model, path, value, words):
    file = model / "model.json"
    content = changed(json.loads(file.read_text()), path, value)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        load_potential(model)


def test_layout_of_the_json_does_not_matter(model):
    file = model / "model.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content, indent=7, sort_keys=True))
    assert load_potential(model).elements == (1, 8)


def test_weights_of_another_model_of_the_same_shape_are_found(model, tmp_path):
    other = untrained_potential(TINY, (1, 8), seed=9).save(tmp_path / "other")
    shutil.copy(other / "weights.safetensors", model / "weights.safetensors")
    with pytest.raises(ValueError, match="belongs to another model"):
        load_potential(model)


def test_no_energy_is_ever_not_a_number(potential):
    params = jax.tree.map(lambda leaf: leaf * np.float32(1e25), potential.params)
    broken = Potential(potential.metadata, params)
    with pytest.raises(FloatingPointError, match="that are not finite"):
        broken.evaluate(molecule("H2O"))
    atoms = molecule("H2O")
    atoms.calc = PhysNetCalculator(broken)
    with pytest.raises(FloatingPointError, match="that are not finite"):
        atoms.get_potential_energy()
