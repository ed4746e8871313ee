"""Pairs against a second implementation; padding; reuse; what is refused."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list
from structures import thin_cell

from physnet_ase.graph import (
    Capacity,
    build_graph,
    centred,
    fit_capacity,
    size_class,
)
from physnet_ase.molecules import Molecules, concatenate
from physnet_ase.neighbors import (
    ALL_PAIRS_LIMIT,
    PairCache,
    check_distances,
    evaluation_pairs,
    find_pairs,
    join_pairs,
    without_vacuum,
)
from physnet_ase.state import ElectronicState


def one(atoms, state=(1, 2)):
    """A molecule of which only the structure matters."""
    return Molecules.from_atoms([atoms], [ElectronicState(*state)])


def pair_set(molecule, pairs):
    """Every pair as receiver, sender and vector."""
    vectors = pairs.vectors(molecule.values["positions"]).round(6).tolist()
    receivers, senders = pairs.receivers.tolist(), pairs.senders.tolist()
    return sorted(zip(receivers, senders, vectors, strict=True))


@pytest.mark.parametrize(
    "atoms",
    [
        thin_cell(),
        bulk("Cu", "fcc", a=3.6) * (2, 2, 2),
        Atoms("C2", [[0, 0, 0.1], [0.5, 1.1, -2.0]], cell=[2.4, 2.5, 0], pbc=[1, 1, 0]),
        Atoms("C2", [[0, 0, 0.1], [0.5, 1.1, 3.0]], cell=[0, 2.5, 0], pbc=[0, 1, 0]),
        Atoms("H60", np.random.default_rng(0).uniform(0, 9, (60, 3))),
    ],
    ids=["triclinic", "fcc", "slab", "wire", "large molecule"],
)
def test_pairs_equal_those_of_ase(atoms):
    molecule = one(atoms)
    pairs = find_pairs(molecule, 4.0)
    i, j, vectors = neighbor_list("ijD", atoms, 4.0, self_interaction=False)
    listed = zip(i.tolist(), j.tolist(), vectors.round(6).tolist(), strict=True)
    for ours, ase in zip(pair_set(molecule, pairs), sorted(listed), strict=True):
        assert ours[:2] == ase[:2]
        np.testing.assert_allclose(ours[2], ase[2], atol=2e-6)
    assert np.all(np.diff(pairs.receivers) >= 0)


@pytest.mark.parametrize("count", [1, 2, 3, ALL_PAIRS_LIMIT])
def test_small_open_systems_have_every_pair(count):
    pairs = evaluation_pairs(one(Atoms(f"H{count}", 50.0 * np.eye(count, 3))), 1.0)
    found = set(zip(pairs.receivers.tolist(), pairs.senders.tolist(), strict=True))
    assert found == {(i, j) for i in range(count) for j in range(count) if i != j}
    assert len(pairs.senders) == count * (count - 1)
    assert np.all(np.diff(pairs.receivers) >= 0)


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (Atoms(), "the structure has no atoms; give at least one"),
        (
            Atoms("H2", [[0, 0, 0], [0, np.nan, 1]]),
            "position of atom 1 is .*nan.*finite",
        ),
        (Atoms("H", pbc=True), "needs that many independent cell vectors"),
        (Atoms("H", cell=[3, 0, 3], pbc=[1, 1, 0]), r"pbc=\[True, True, False\] needs"),
        (Atoms("H", cell=[3, 3, np.inf], pbc=True), "independent cell vectors"),
    ],
)
def test_bad_structures_are_refused(atoms, words):
    with pytest.raises(ValueError, match=words):
        one(atoms)


def test_coincident_atoms_and_images_are_refused():
    near = one(Atoms("H3", [[0, 0, 0], [1, 0, 0], [1, 0, 0.05]]))
    with pytest.raises(ValueError, match=r"atoms 1 and 2 are only 0\.05 Å apart"):
        check_distances(near, find_pairs(near, 4.0))
    image = one(Atoms("H2", [[0, 0, 0], [0, 0, 2.98]], cell=[3, 3, 3], pbc=True))
    with pytest.raises(ValueError, match=r"atoms 0 and 1 are only 0\.02 Å apart"):
        check_distances(image, find_pairs(image, 4.0))
    alone = one(Atoms("H"))
    check_distances(alone, find_pairs(alone, 4.0))


def test_molecules_are_copies():
    atoms = molecule("H2O")
    copied = one(atoms).values["positions"]
    atoms.positions += 1.0
    assert np.abs(copied - atoms.positions).min() == pytest.approx(1.0)


def test_cached_list_holds_every_pair_until_half_the_skin_is_used(rng):
    atoms = Atoms("H60", rng.uniform(0, 9, (60, 3)))
    cache = PairCache(4.0, skin=0.6)
    first = cache.pairs(one(atoms))
    atoms.positions += rng.uniform(-0.17, 0.17, (60, 3))  # at most 0.295 Å
    assert cache.pairs(one(atoms)) is first
    exact = set(map(tuple, zip(*find_pairs(one(atoms), 4.0)[:2], strict=True)))
    assert exact < set(map(tuple, zip(*first[:2], strict=True)))
    atoms.positions[7] += 0.3
    assert cache.pairs(one(atoms)) is not first
    assert cache.num_builds == 2


def test_cached_list_is_rebuilt_for_another_cell_count_or_periodicity():
    cache = PairCache(4.0)
    atoms = thin_cell()
    cache.pairs(one(atoms))
    atoms.set_cell(1.001 * atoms.cell.array)
    cache.pairs(one(atoms))
    atoms.pbc = [True, True, False]
    cache.pairs(one(atoms))
    cache.pairs(one(atoms + Atoms("H", [[1.0, 1.0, 1.0]])))
    assert cache.num_builds == 4


def test_one_list_serves_a_small_open_system_wherever_its_atoms_go():
    cache = PairCache(4.0)
    atoms = molecule("H2O")
    for scale in (1.0, 2.0, 10.0):
        scaled = Atoms(atoms.numbers, scale * atoms.positions)
        cache.pairs(one(scaled))
    assert cache.num_builds == 1


def test_size_classes_hold_what_they_must_and_are_few():
    sizes = [size_class(count) for count in range(1, 41)]
    assert all(size >= count for count, size in zip(range(1, 41), sizes, strict=True))
    assert sizes == sorted(sizes)
    assert sorted(set(sizes)) == [4, 6, 10, 16, 26, 42]


def test_graph_is_centred_masked_and_sorted():
    far = molecule("H2O")
    far.positions += 1000.0
    molecules = concatenate([one(far, (0, 3)), one(thin_cell(), (1, 1))])
    pairs = find_pairs(molecules, 4.0)
    capacity = fit_capacity(molecules, pairs)
    graph = build_graph(centred(molecules), pairs)
    assert len(graph.atomic_numbers) == capacity.atoms > 6
    assert graph.atomic_numbers[:6].tolist() == [8, 1, 1, 6, 8, 1]
    assert not graph.atomic_numbers[6:].any()
    assert np.abs(graph.positions).max() < 3.0
    assert graph.atom_mask.sum() == 6
    assert graph.pair_mask.sum() == len(pairs.senders)
    assert graph.long_pair_mask.sum() == 3  # the open molecule only
    assert graph.periodic.tolist()[:2] == [False, True]
    assert graph.total_charge.tolist()[:2] == [0, 1]
    assert graph.spin_multiplicity.tolist()[:2] == [3, 1]
    assert np.all(np.diff(graph.receivers) >= 0)
    assert np.all(np.diff(graph.molecule_index) >= 0)
    vectors = graph.positions[graph.senders] + graph.shifts
    vectors = vectors - graph.positions[graph.receivers]
    distances = np.linalg.norm(vectors, axis=1)[graph.pair_mask]
    assert 0.5 < distances.min()
    assert distances.max() < 4.0


def test_capacity_of_one_molecule_follows_from_its_atoms_alone():
    water = one(molecule("H2O"))
    stretched = water.with_values(positions=100.0 * water.values["positions"])
    shapes = {fit_capacity(s, evaluation_pairs(s, 4.0)) for s in (water, stretched)}
    assert shapes == {Capacity(molecules=1, atoms=4, pairs=12, long_pairs=6)}


def test_pairs_of_a_batch_are_those_of_its_molecules(rng):
    atoms = [
        molecule("CH4"),
        thin_cell(),
        Atoms("H300", rng.uniform(0, 14, (300, 3))),
        Atoms("O"),
    ]
    parts = [one(each) for each in atoms]
    batch = concatenate(parts)
    together = find_pairs(batch, 3.0)
    joined = join_pairs([find_pairs(part, 3.0) for part in parts], batch.n_atoms)
    assert pair_set(batch, together) == pair_set(batch, joined)
    assert np.all(np.diff(together.receivers) >= 0)
    assert together.long_senders.tolist() == joined.long_senders.tolist()
    assert len(together.long_senders) == 5 * 4 // 2 + 300 * 299 // 2


@pytest.mark.parametrize("shift", [0.0, 7.3, -20.0, 19.9])
@pytest.mark.parametrize(
    "cell",
    [[20.0, 20.0, 20.0], [[20, 0, 0], [6, 19, 0], [-3, 5, 22]]],
    ids=["cubic", "triclinic"],
)
def test_a_molecule_alone_in_a_box_is_open_and_whole(cell, shift):
    atoms = molecule("CH3CH2OH")
    distances = atoms.get_all_distances()
    atoms.set_cell(cell)
    atoms.pbc = True
    atoms.positions += shift
    atoms.wrap()
    alone = without_vacuum(one(atoms), 10.0)
    assert not alone.periodic.any()
    whole = Atoms(atoms.numbers, alone.values["positions"])
    np.testing.assert_allclose(whole.get_all_distances(), distances, atol=1e-10)


def test_whatever_sees_an_image_stays_periodic():
    atoms = molecule("H2O", cell=[9.0, 9.0, 9.0], pbc=True)
    assert not without_vacuum(one(atoms), 7.4).periodic.any()  # 1.53 Å wide
    assert without_vacuum(one(atoms), 7.5).periodic.all()
    slab = molecule("H2O", cell=[4.0, 4.0, 60.0], pbc=True)
    assert without_vacuum(one(slab), 6.0).periodic.all()
    wire = molecule("H2O", cell=[0.0, 0.0, 30.0], pbc=[False, False, True])
    assert not without_vacuum(one(wire), 6.0).periodic.any()
