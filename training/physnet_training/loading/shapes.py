"""Few static shapes for many batches: which capacities a loader pads to.

Every shape costs one compilation, every padded pair costs time in each step: a run of
few steps has few shapes. They are fitted to the batches of the first epoch, and the
last one holds the worst batch that any order can produce, so that no batch of open
molecules can overflow.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_ase.graph import Capacity

Array = NDArray[Any]
_ATOM_COST = 8.0  # work per atom in units of the work per pair, roughly
_COMPILATION = 200.0  # batches that are computed in the time of a compilation, roughly
_MIN_GAIN = 0.1  # an additional shape must save this fraction of the padded work, or
_ATOM_WASTE = 0.08  # more of the atoms than this are padding, and an epoch has
_BATCHES_PER_SHAPE = 50  # enough batches to be worth the compilation
_HEADROOM = 1.05  # of the largest fitted shape, since other epochs differ
_NUM_CANDIDATES = 64
MAX_SHAPES = 8


def choose_shapes(
    batches: Array,
    worst: Capacity,
    *,
    pair_margin: float = 1.0,
    expected: float = math.inf,
) -> list[Capacity]:
    """Capacities that keep padding small, at most eight.

    Args:
        batches: [batches, 3] atoms, pairs and long pairs of an epoch's batches.
        worst: The shape that holds every possible batch.
        pair_margin: Headroom for the pairs where these are estimated.
        expected: Batches that will be computed in all.

    Returns:
        Ascending shapes; the last is ``worst``.
    """
    batches = batches * np.array([1.0, pair_margin, 1.0])
    work = batches[:, 0] * _ATOM_COST + batches[:, 1]
    batches = batches[np.argsort(work, kind="stable")]
    count = len(batches)
    ends = np.unique(np.linspace(1, count, min(_NUM_CANDIDATES, count)).astype(int))
    limits = np.maximum.accumulate(batches, axis=0)[ends - 1]  # [candidates, 3]
    cost = limits[:, 0] * _ATOM_COST + limits[:, 1]
    least = (worst.atoms * _ATOM_COST + worst.pairs) * count
    best = [worst]
    for classes in range(1, MAX_SHAPES):
        total, chosen = _partition(ends, cost, classes)
        shapes = _shapes(limits[chosen], worst)
        gain = 1.0 - total / least
        # The first one costs nothing: hardly any batch then needs the worst shape.
        pays = classes == 1 or gain > _COMPILATION / expected
        worth = count >= _BATCHES_PER_SHAPE * classes
        wasteful = worth and atom_waste(batches, best) > _ATOM_WASTE
        if pays and (gain > _MIN_GAIN or wasteful):
            least, best = total, shapes
    return best


def _shapes(limits: Array, worst: Capacity) -> list[Capacity]:
    """Shapes of these capacities with an atom to spare for padded pairs, and ``worst``.

    A batch that a smaller one does not hold goes to the next: headroom is for the last.
    """
    limits = limits.copy()
    limits[-1] *= _HEADROOM
    limits[:, 0] += 1
    sized = np.minimum(np.ceil(limits), worst[1:4]).astype(int)
    found = [
        worst._replace(atoms=row[0], pairs=row[1], long_pairs=row[2])
        for row in np.unique(sized, axis=0).tolist()
    ]
    return [shape for shape in found if shape != worst] + [worst]


def atom_waste(batches: Array, shapes: list[Capacity]) -> float:
    """Fraction of the atom slots that hold no atom, each batch in its first fit."""
    capacities = np.array(shapes, dtype=np.float64)[:, 1:4]
    holds = np.all(batches[:, None, :] <= capacities, axis=2)
    holds[:, -1] = True
    slots = capacities[np.argmax(holds, axis=1), 0].sum()
    return float(1.0 - batches[:, 0].sum() / slots)


def choose_widths(largest: Array, widest: int) -> Array:
    """Widths of dense batches that keep padding small, at most eight.

    Args:
        largest: [batches] size of the largest molecule of some batches.
        widest: The largest molecule of all.

    Returns:
        Ascending widths; the last is ``widest``.
    """
    widths, counts = np.unique(np.append(largest, widest), return_counts=True)
    ends = np.cumsum(counts)
    _, chosen = _partition(ends, widths.astype(np.float64), MAX_SHAPES)
    return widths[chosen]


def _partition(ends: Array, cost: Array, classes: int) -> tuple[float, list[int]]:
    """Cut the ascending batches into classes so that the summed capacity is least.

    Dynamic programming over the candidate ends: the best way to cover the batches up
    to candidate j with k classes adds one class from some i < j to the best with k-1.
    """
    counts = np.concatenate([[0], ends]).astype(np.float64)
    best = np.full(len(counts), np.inf)
    best[0] = 0.0
    origins = []
    for _ in range(min(classes, len(ends))):
        # [j, i]: cover the first i candidates, then one class that ends at j.
        step = best[None, :] + (counts[1:, None] - counts[None, :]) * cost[:, None]
        step = np.where(np.tri(len(ends), len(counts), dtype=bool), step, np.inf)
        origin = np.argmin(step, axis=1)
        best = np.concatenate(
            [[np.inf], np.take_along_axis(step, origin[:, None], axis=1)[:, 0]]
        )
        origins.append(origin)
    chosen = []
    j = len(ends)
    for origin in reversed(origins):
        chosen.append(j - 1)
        j = int(origin[j - 1])
    return float(best[-1]), chosen[::-1]
