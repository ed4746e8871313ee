"""London dispersion: D3 with Becke-Johnson damping, C6 by coordination numbers.

S. Grimme, J. Antony, S. Ehrlich, H. Krieg, J. Chem. Phys. 2010, 132, 154104, with the
damping of S. Grimme, S. Ehrlich, L. Goerigk, J. Comput. Chem. 2011, 32, 1456, without
three-body terms. ``dispersion.npz`` holds their reference C6 (Hartree·bohr⁶, of each
pair of elements with up to seven coordination numbers each), covalent radii (Å; Pyykkö
& Atsumi, Chem. Eur. J. 2009, 15, 188, of metals less a tenth, times 4/3), and the roots
of √Z⟨r⁴⟩/2⟨r²⟩ that C8 is made with (bohr), up to radon.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from physnet_ase.config import ModelConfig
from physnet_ase.physics.surroundings import Surroundings
from physnet_ase.units import BOHR, HARTREE

PARAMETERS = {
    "b3lyp": (1.9889, 0.3981, 4.4211),
    "blyp": (2.6996, 0.4298, 4.2359),
    "bp": (3.2822, 0.3946, 4.8516),
    "hf": (0.9171, 0.3385, 2.8830),
    "pbe": (0.7875, 0.4289, 4.4407),
    "pbe0": (1.2177, 0.4145, 4.8593),
    "r2scan": (0.78981345, 0.49484001, 5.73083694),
    "revpbe": (2.3550, 0.5238, 3.5016),
    "tpss": (1.9435, 0.4535, 4.4752),
    "wb97m": (0.3908, 0.5660, 3.1280),
}
"""Functional -> s8, a1, a2 (bohr); s6 is 1. Grimme et al. 2011; of r2scan Ehlert et
al., J. Chem. Phys. 2021, 154, 061101; of wb97m Najibi & Goerigk, J. Chem. Theory
Comput. 2018, 14, 5725."""
_STEEPNESS = 16.0
"""k1 of the coordination number."""
_SHARPNESS = 4.0
"""k3 of the weights of reference systems."""
_SWITCH = 0.75
"""Of the cutoff: pairs in cells are switched off between there and the cutoff."""
HEAVIEST = 86


class _Tables(NamedTuple):
    c6: np.ndarray  # [elements, elements, 7, 7] eV·Å⁶
    coordination: np.ndarray  # [elements, 7], below 0 where there is no reference
    radii: np.ndarray  # [elements] Å
    moments: np.ndarray  # [elements] Å


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    with np.load(Path(__file__).with_suffix(".npz"), allow_pickle=False) as stored:
        data = dict(stored)
    size = len(data["radii"])
    one, other = np.triu_indices(size)
    c6 = np.zeros((size, size, 7, 7))
    c6[one, other] = data["c6"]
    c6[other, one] = data["c6"].transpose(0, 2, 1)
    return _Tables(
        c6 * HARTREE * BOHR**6,
        data["coordination"].astype(np.float64),
        data["radii"],
        data["r4r2"] * BOHR,
    )


class _Pairs(NamedTuple):
    """Pairs of atoms, and how much of each counts for its receiver and its sender."""

    senders: Int[Array, " pairs"]
    receivers: Int[Array, " pairs"]
    distances: Float[Array, " pairs"]  # Å
    share: Float[Array, " pairs"]


def dispersion_energies(
    config: ModelConfig, around: Surroundings
) -> Float[Array, " atoms"]:
    """Dispersion energy of each atom in eV, half of each of its pairs.

    Of open systems every pair counts; in periodic cells pairs within the cutoff, faded
    out over its last quarter.
    """
    numbers = around.graph.atomic_numbers
    every = _all_pairs(config, around)
    tables = _tables()

    def of_atoms(table: np.ndarray) -> jax.Array:
        return jnp.asarray(table, around.charges.dtype)[numbers]

    radii, moments = of_atoms(tables.radii), of_atoms(tables.moments)
    i, j, r = every.receivers, every.senders, every.distances
    count = jax.nn.sigmoid(_STEEPNESS * ((radii[i] + radii[j]) / r - 1.0))
    coordination = _to_both(every, count, len(numbers))
    references = of_atoms(tables.coordination)
    closeness = -_SHARPNESS * (coordination[:, None] - references) ** 2
    closeness = jnp.where(references < 0.0, -jnp.inf, closeness)
    closeness = jnp.where(numbers[:, None] > 0, closeness, 0.0)  # padding: any weights
    weights = jax.nn.softmax(closeness, axis=1)
    c6_of = jnp.asarray(tables.c6, r.dtype)[numbers[i], numbers[j]]
    c6 = jnp.einsum("pab,pa,pb->p", c6_of, weights[i], weights[j])
    s8, a1, a2 = PARAMETERS[config.dispersion]
    ratio = 3.0 * moments[i] * moments[j]  # C8/C6, Å²
    radius = a1 * jnp.sqrt(jnp.where(ratio > 0.0, ratio, 1.0)) + a2 * BOHR
    energy = -c6 * (1.0 / (r**6 + radius**6) + s8 * ratio / (r**8 + radius**8))
    return 0.5 * _to_both(every, energy, len(numbers))


def _all_pairs(config: ModelConfig, around: Surroundings) -> _Pairs:
    """Pairs of open systems once, those of cells in both directions, half of each."""
    graph, cutoff = around.graph, config.cutoff
    dtype = around.charges.dtype
    beyond = (around.distances / cutoff - _SWITCH) / (1.0 - _SWITCH)
    x = jnp.clip(beyond, 0.0, 1.0)
    fade = 1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x**2)
    periodic = graph.periodic[graph.molecule_index][graph.receivers]
    in_cells = jnp.where(graph.pair_mask & periodic, 0.5 * fade, 0.0)
    long = graph.long_pair_mask.astype(dtype)

    def joined(first: jax.Array, second: jax.Array) -> jax.Array:
        return jnp.concatenate([first, second])

    return _Pairs(
        joined(graph.senders, graph.long_senders),
        joined(graph.receivers, graph.long_receivers),
        joined(around.distances, around.long_distances),
        joined(in_cells.astype(dtype), long),
    )


def _to_both(
    pairs: _Pairs, values: Float[Array, " pairs"], num_atoms: int
) -> Float[Array, " atoms"]:
    """Values of pairs summed at both of their atoms."""
    values = values * pairs.share
    total = jnp.zeros(num_atoms, values.dtype)
    return total.at[pairs.receivers].add(values).at[pairs.senders].add(values)
