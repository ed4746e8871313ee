"""Few static shapes for many batches: which capacities a loader pads to.

Every shape costs one compilation, every padded pair costs time in each step. Some
shapes are fitted to the batches of the first epoch, and the last one holds the worst
batch that any order can produce, so that no batch of open molecules can overflow.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from physnet_training.batching import Shape

Array = NDArray[Any]
_ATOM_COST = 8.0  # work per atom in units of the work per pair, roughly
_MIN_GAIN = 0.1  # an additional shape must save this fraction of the padded work
_NUM_CANDIDATES = 48
MAX_SHAPES = 4


def choose_shapes(batches: Array, worst: Shape, margin: float = 1.05) -> list[Shape]:
    """Capacities that keep padding small, at most four.

    Args:
        batches: [batches, 3] atoms, pairs and long pairs of an epoch's batches.
        worst: The shape that holds every possible batch.
        margin: Headroom of the fitted shapes, since other epochs differ.

    Returns:
        Ascending shapes; the last is ``worst``.
    """
    work = batches[:, 0] * _ATOM_COST + batches[:, 1]
    batches = batches[np.argsort(work, kind="stable")]
    ends = np.unique(
        np.linspace(1, len(batches), min(_NUM_CANDIDATES, len(batches))).astype(int)
    )
    limits = np.maximum.accumulate(batches, axis=0)[ends - 1]  # [candidates, 3]
    cost = limits[:, 0] * _ATOM_COST + limits[:, 1]
    full = (worst.atoms * _ATOM_COST + worst.pairs) * len(batches)
    least, best = full, [worst]
    for classes in range(1, MAX_SHAPES + 1):
        total, chosen = _partition(ends, cost, classes)
        shapes = []
        for index in chosen:
            sized = np.ceil(limits[index] * margin)
            sized[0] += 1
            shape = Shape(*(int(min(c, w)) for c, w in zip(sized, worst, strict=True)))
            if shape != worst and shape not in shapes:
                shapes.append(shape)
        if total < least * (1 - _MIN_GAIN) and len(shapes) < MAX_SHAPES:
            least, best = total, [*shapes, worst]
    return best


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
