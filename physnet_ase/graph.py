"""The one batch structure: molecules as flat atoms and pairs, with masks.

Nothing here needs JAX: a named tuple of NumPy arrays is already a pytree, so readers
can build graphs in worker processes and the network receives the same type.
"""

from typing import Any, NamedTuple

Array = Any
"""A NumPy or JAX array; shapes stand in the field comments."""


class Labels(NamedTuple):
    """Reference values; NaN means that this label is missing and is masked."""

    energy: Array  # [molecules] eV, float64 on the host
    forces: Array  # [atoms, 3] eV/Å
    dipole: Array  # [molecules, 3] e·Å about the coordinate origin
    charges: Array  # [atoms] e
    spin_populations: Array  # [atoms] electrons
    weight: Array  # [molecules] relative weight of the molecule in the loss


class Graph(NamedTuple):
    """A padded batch of molecules.

    Padded atoms have ``atomic_numbers`` 0, ``atom_mask`` False and belong to the last
    molecule slot; padded pairs have ``pair_mask`` False and point at the last atom
    slot. Receivers are sorted. A pair's vector is ``R[senders] + shifts -
    R[receivers]``.

    The ``long_*`` pairs are every i < j of molecules without periodic directions: the
    Coulomb sum of open systems. Periodic molecules have none there.
    """

    atomic_numbers: Array  # [atoms] int32
    positions: Array  # [atoms, 3] Å
    molecule_index: Array  # [atoms] int32, ascending
    atom_mask: Array  # [atoms] bool
    senders: Array  # [pairs] int32
    receivers: Array  # [pairs] int32, ascending
    shifts: Array  # [pairs, 3] Å, Cartesian translation of the sender's image
    pair_mask: Array  # [pairs] bool
    long_senders: Array  # [long_pairs] int32
    long_receivers: Array  # [long_pairs] int32
    long_pair_mask: Array  # [long_pairs] bool
    total_charge: Array  # [molecules] int32, e
    spin_multiplicity: Array  # [molecules] int32, 2S+1
    molecule_mask: Array  # [molecules] bool
    periodic: Array  # [molecules] bool, any periodic direction
    labels: Labels | None = None
