"""Damaged datasets are found at opening, with the first batch, or by checksums."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from physnet_training import PackedMemmapLoader
from physnet_training.packed import PackedDataset
from physnet_training.packed.files import MANIFEST

from physnet_ase.quantities import QUANTITIES

FILES = [
    QUANTITIES[name].file
    for name in ("atomic_numbers", "positions", "forces", "energy", "dipole", "charges")
]


@pytest.fixture(scope="module")
def source(make_dataset):
    return make_dataset([3, 4, 2, 5] * 8)


@pytest.fixture
def folder(source, tmp_path):
    return shutil.copytree(source, tmp_path / "set")


@settings(max_examples=40, deadline=None)
@given(file=st.sampled_from(FILES), seed=st.integers(0, 2**32 - 1))
def test_random_bytes_are_found_with_the_batch(source, tmp_path_factory, file, seed):
    folder = shutil.copytree(source, tmp_path_factory.mktemp("damage") / "set")
    size = (folder / file).stat().st_size
    (folder / file).write_bytes(np.random.default_rng(seed).bytes(size))
    dataset = PackedDataset.open(folder)
    with pytest.raises(ValueError, match=rf"{file}: molecule \d+ .*inspect --verify"):
        dataset.molecules(range(len(dataset)))
    loader = PackedMemmapLoader(folder, 32, shuffle=False)
    if file not in ("D.f32", "q_pack.f32"):  # dense batches hold neither
        with pytest.raises(ValueError, match=rf"{file}: molecule \d+"):
            next(iter(loader.batches()))


def test_random_states_are_found(folder):
    content = np.random.default_rng(0).bytes(4 * 32)
    (folder / "total_charge.f32").write_bytes(content)
    with pytest.raises(ValueError, match=r"total_charge|whole"):
        next(iter(PackedMemmapLoader(folder, 32).batches()))


def test_missing_labels_and_large_numbers_are_no_damage(make_molecules, make_dataset):
    molecules = make_molecules([2, 3], ["energy", "forces"])
    molecules["values"]["energy"][0] = np.nan
    molecules["values"]["energy"][1] = -2.5e7
    molecules["values"]["forces"][0] = 1e5
    dataset = PackedDataset.open(make_dataset(molecules=molecules))
    assert np.isnan(dataset.molecules([0]).values["energy"]).all()


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"energy": "hartree"}, "energy in hartree, always eV here"),
        ({"length": "bohr"}, "length in bohr, always angstrom here"),
        ({"forces": "kcal/mol/angstrom"}, "forces in kcal"),
        ({"charge": "C", "stress": "GPa"}, "charge in C.*stress in GPa"),
        ("eV", r"not those of a packed dataset \(eV\)"),
    ],
)
def test_units_of_the_manifest(folder, units, message):
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["units"] = {**manifest["units"], **units} if units != "eV" else units
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"manifest\.json was changed.*{message}"):
        PackedDataset.open(folder)


@pytest.mark.parametrize("file", ["n_atoms.npy", "offsets.npy"])
@pytest.mark.parametrize("kind", ["noise", "object", "empty", "text"])
def test_damaged_index_never_advises_unsafe_loading(folder, file, kind):
    content = {
        "noise": np.random.default_rng(1).bytes(200),
        "empty": b"",
        "text": b"3\n4\n5\n",
        "object": None,
    }[kind]
    if content is None:
        np.save(folder / file, np.array([{}], dtype=object), allow_pickle=True)
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file} cannot be read") as raised:
        PackedDataset.open(folder)
    assert "pickle" not in str(raised.value)
    assert "unsafe" not in str(raised.value)


@pytest.mark.parametrize("field", ["level", "group"])
def test_indices_beyond_the_names(make_molecules, tmp_path, field):
    from data_files import batch
    from physnet_training.packed import PackedWriter

    part = make_molecules((2, 3), ["energy"])
    with PackedWriter(tmp_path / "set") as writer:
        writer.append(batch(part, names=["a", "b"], levels=["x", "y"]))
    quantity = QUANTITIES[field]
    np.array([0, 99], quantity.dtype).tofile(tmp_path / "set" / quantity.file)
    with pytest.raises(ValueError, match=rf"{quantity.file} holds a number beyond"):
        PackedDataset.open(tmp_path / "set").molecules([0, 1])


def test_checksums_in_the_background(folder):
    assert PackedDataset.open(folder).verify_later().result(timeout=30) == 12
    content = bytearray((folder / "R_pack.f32").read_bytes())
    content[0] ^= 1
    (folder / "R_pack.f32").write_bytes(content)
    later = PackedDataset.open(folder).verify_later()
    with pytest.raises(ValueError, match=r"R_pack\.f32 was changed"):
        later.result(timeout=30)
    (folder / MANIFEST).unlink()
    assert PackedDataset.open(folder).verify_later().result(timeout=30) == 0


def test_batches_of_molecules_are_what_is_on_disk(make_molecules, make_dataset, rng):
    molecules = make_molecules([3, 1, 4, 2])
    dataset = PackedDataset.open(make_dataset(molecules=molecules))
    whole = dataset.molecules(range(4))
    chosen = dataset.molecules([2, 0, 2], ["forces", "energy"])
    assert chosen.rows.tolist() == [2, 0, 2]
    assert chosen.n_atoms.tolist() == [4, 3, 4]
    names = {"forces", "energy", "total_charge", "spin_multiplicity"}
    assert set(chosen.values) == names
    again = whole.take(np.array([2, 0, 2]))
    for name in names:
        np.testing.assert_array_equal(chosen.values[name], again.values[name])
    missing = dataset.molecules([1], ["cell"]).values["cell"]
    assert np.isnan(missing).all()
