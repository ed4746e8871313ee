"""Terms with formulas: energies of atoms from their surroundings.

Another term is one more file, and one line in ``TERMS``; the configuration's field of
that name switches it on.
"""

from collections.abc import Callable

from jaxtyping import Array, Float

from physnet_ase.config import ModelConfig
from physnet_ase.physics.dispersion import dispersion_energies
from physnet_ase.physics.electrostatics import electrostatic_energies
from physnet_ase.physics.repulsion import repulsion_energies
from physnet_ase.physics.surroundings import Surroundings

Term = Callable[[ModelConfig, Surroundings], Float[Array, " atoms"]]
"""(configuration, surroundings) -> energy of each atom in eV."""

TERMS: dict[str, Term] = {
    "electrostatics": electrostatic_energies,
    "zbl": repulsion_energies,
    "dispersion": dispersion_energies,
}
"""Field of ``ModelConfig`` -> the term that it switches on."""
