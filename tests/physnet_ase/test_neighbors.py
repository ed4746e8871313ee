"""Pairs against a second implementation; padding; reuse; what is refused."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list
from structures import thin_cell

from physnet_ase.neighbors import (
    ALL_PAIRS_LIMIT,
    Capacity,
    PairCache,
    Structure,
    build_graph,
    check_distances,
    find_pairs,
    fit_capacity,
    size_class,
)
from physnet_ase.state import ElectronicState


def pair_set(structure, pairs):
    """Every pair as receiver, sender and image."""
    cells = np.rint(pairs.cells).astype(int)
    return sorted(
        zip(
            pairs.receivers.tolist(),
            pairs.senders.tolist(),
            cells.tolist(),
            strict=True,
        )
    )


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
    structure = Structure.from_atoms(atoms)
    pairs = find_pairs(structure, 4.0)
    expected = neighbor_list("ijS", atoms, 4.0, self_interaction=False)
    listed = sorted(zip(*(array.tolist() for array in expected), strict=True))
    assert pair_set(structure, pairs) == listed
    assert np.all(np.diff(pairs.receivers) >= 0)


@pytest.mark.parametrize("count", [1, 2, 3, ALL_PAIRS_LIMIT])
def test_small_open_systems_have_every_pair(count):
    structure = Structure.from_atoms(Atoms(f"H{count}", 50.0 * np.eye(count, 3)))
    pairs = find_pairs(structure, 1.0)
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
        Structure.from_atoms(atoms)


def test_coincident_atoms_and_images_are_refused():
    near = Structure.from_atoms(Atoms("H3", [[0, 0, 0], [1, 0, 0], [1, 0, 0.05]]))
    with pytest.raises(ValueError, match=r"atoms 1 and 2 are only 0\.05 Å apart"):
        check_distances(near, find_pairs(near, 4.0))
    image = Structure.from_atoms(
        Atoms("H2", [[0, 0, 0], [0, 0, 2.98]], cell=[3, 3, 3], pbc=True)
    )
    with pytest.raises(ValueError, match=r"atoms 0 and 1 are only 0\.02 Å apart"):
        check_distances(image, find_pairs(image, 4.0))
    alone = Structure.from_atoms(Atoms("H"))
    check_distances(alone, find_pairs(alone, 4.0))


def test_structure_is_a_copy():
    atoms = molecule("H2O")
    structure = Structure.from_atoms(atoms)
    atoms.positions += 1.0
    assert np.abs(structure.positions - atoms.positions).min() == pytest.approx(1.0)


def test_cached_list_holds_every_pair_until_half_the_skin_is_used(rng):
    atoms = Atoms("H60", rng.uniform(0, 9, (60, 3)))
    cache = PairCache(4.0, skin=0.6)
    first = cache.pairs(Structure.from_atoms(atoms))
    atoms.positions += rng.uniform(-0.17, 0.17, (60, 3))  # at most 0.295 Å
    structure = Structure.from_atoms(atoms)
    assert cache.pairs(structure) is first
    exact = set(map(tuple, zip(*find_pairs(structure, 4.0)[:2], strict=True)))
    assert exact < set(map(tuple, zip(*first[:2], strict=True)))
    atoms.positions[7] += 0.3
    assert cache.pairs(Structure.from_atoms(atoms)) is not first
    assert cache.num_builds == 2


def test_cached_list_is_rebuilt_for_another_cell_count_or_periodicity():
    cache = PairCache(4.0)
    atoms = thin_cell()
    cache.pairs(Structure.from_atoms(atoms))
    atoms.set_cell(1.001 * atoms.cell.array)
    cache.pairs(Structure.from_atoms(atoms))
    atoms.pbc = [True, True, False]
    cache.pairs(Structure.from_atoms(atoms))
    cache.pairs(Structure.from_atoms(atoms + Atoms("H", [[1.0, 1.0, 1.0]])))
    assert cache.num_builds == 4


def test_one_list_serves_a_small_open_system_wherever_its_atoms_go():
    cache = PairCache(4.0)
    atoms = molecule("H2O")
    for scale in (1.0, 2.0, 10.0):
        scaled = Atoms(atoms.numbers, scale * atoms.positions)
        cache.pairs(Structure.from_atoms(scaled))
    assert cache.num_builds == 1


def test_size_classes_hold_what_they_must_and_are_few():
    sizes = [size_class(count) for count in range(1, 41)]
    assert all(size >= count for count, size in zip(range(1, 41), sizes, strict=True))
    assert sizes == sorted(sizes)
    assert sorted(set(sizes)) == [4, 6, 10, 16, 26, 42]


def test_graph_is_centred_masked_and_sorted():
    far = molecule("H2O")
    far.positions += 1000.0
    structures = [Structure.from_atoms(far), Structure.from_atoms(thin_cell())]
    states = [ElectronicState(0, 3), ElectronicState(1, 1)]
    pairs = [find_pairs(s, 4.0) for s in structures]
    capacity = fit_capacity(structures, pairs)
    graph = build_graph(structures, states, pairs)
    assert len(graph.atomic_numbers) == capacity.atoms > 6
    assert graph.atomic_numbers[:6].tolist() == [8, 1, 1, 6, 8, 1]
    assert not graph.atomic_numbers[6:].any()
    assert np.abs(graph.positions).max() < 3.0
    assert graph.atom_mask.sum() == 6
    assert graph.pair_mask.sum() == sum(len(p.senders) for p in pairs)
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
    water = Structure.from_atoms(molecule("H2O"))
    stretched = water._replace(positions=100.0 * water.positions)
    shapes = {fit_capacity([s], [find_pairs(s, 4.0)]) for s in (water, stretched)}
    assert shapes == {Capacity(molecules=1, atoms=4, pairs=12, long_pairs=6)}
