"""The one table of quantities: what a molecule has, in which unit, file and loss.

Readers, the packed dataset, the loader, the loss, the evaluation and the calculator
look names, shapes and units up here. A new label is one more entry.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

Dimension = Literal["none", "length", "energy", "force", "dipole", "charge", "stress"]
"""What kind of unit a quantity has; see ``units.conversion_factor``."""
Role = Literal["structure", "state", "label", "index"]
"""Where atoms are, in which state they are, what is learned, or which table row."""


@dataclass(frozen=True)
class Quantity:
    """One property of atoms or molecules.

    Attributes:
        name: Name in Python, in ``Molecules.values`` and in recipes.
        role: What it is for.
        file: Its array in a packed dataset.
        dtype: Type on disk, little endian.
        per_atom: One row per atom instead of one per molecule.
        shape: Shape of one row.
        dimension: Kind of its unit.
        unit: Unit inside and on disk, empty for numbers without one.
        aliases: Keys under which data files store it, in any case of letters; those of
            one letter only as they stand.
        required: A packed dataset without it is not one.
        loss_weight: Default weight in the loss; None: stored but never trained.
        loss_note: What the weight counts per, for the settings page.
        needs: Field of ``ModelConfig`` that must be true for a model to predict it.
        predict: For labels that a program does not give under their name: (outputs of
            a program, graph) -> array, as :func:`dipoles`.
        ase_name: Property of an ASE calculator that holds it.
    """

    name: str
    role: Role
    file: str
    dtype: str = "<f4"
    per_atom: bool = False
    shape: tuple[int, ...] = ()
    dimension: Dimension = "none"
    unit: str = ""
    aliases: tuple[str, ...] = ()
    required: bool = False
    loss_weight: float | None = None
    loss_note: str = ""
    needs: str = ""
    predict: Callable[[Mapping[str, Any], Any], Any] | None = None
    ase_name: str = ""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on disk."""
        size = int(self.dtype[2:])
        for length in self.shape:
            size *= length
        return size

    @property
    def fill(self) -> float:
        """What stands where a value is missing: NaN, -1 for indices, 0 for flags."""
        return {"f": float("nan"), "u": 0, "i": -1}[self.dtype[1]]

    @property
    def error_unit(self) -> str:
        """Its unit as part of the name of an error: "ev_per_angstrom"."""
        unit = self.unit.lower().replace("^", "").replace("*", "_")
        return unit.replace("/", "_per_")

    def row_shape(self, num_molecules: int, num_atoms: int) -> tuple[int, ...]:
        """Shape of the array of so many molecules and atoms."""
        return (num_atoms if self.per_atom else num_molecules, *self.shape)


def molecule_energies(outputs: Mapping[str, Any], graph: Any) -> Any:
    """Sums of the atoms' energies, in eV without references."""
    from physnet_ase.sums import molecule_sum  # readers of the table need no JAX

    return molecule_sum(outputs["energies"], graph)


def dipoles(outputs: Mapping[str, Any], graph: Any) -> Any:
    """Σ q_i R_i of every molecule about the coordinate origin, in e·Å."""
    from physnet_ase.sums import molecule_sum

    return molecule_sum(outputs["charges"][:, None] * graph.positions, graph)


def voigt_stresses(outputs: Mapping[str, Any], graph: Any) -> Any:
    """Virials over volumes in ASE's order xx, yy, zz, yz, xz, xy; 0 without a cell."""
    import jax.numpy as jnp

    volume = jnp.abs(jnp.linalg.det(graph.cell))
    known = volume > 0.0
    stress = outputs["virial"] / jnp.where(known, volume, 1.0)[:, None, None]
    rows, columns = jnp.array([0, 1, 2, 1, 0, 0]), jnp.array([0, 1, 2, 2, 2, 1])
    return jnp.where(known[:, None], stress[:, rows, columns], 0.0)


_TABLE = (
    Quantity(
        "atomic_numbers",
        "structure",
        "Z_pack.int32",
        "<i4",
        per_atom=True,
        aliases=(
            "atomic_numbers",
            "numbers",
            "species",
            "Z",
            "z",
            "atNUM",
            "nuclear_charges",
        ),
        required=True,
    ),
    Quantity(
        "positions",
        "structure",
        "R_pack.f32",
        per_atom=True,
        shape=(3,),
        dimension="length",
        unit="angstrom",
        aliases=("positions", "R", "coord", "coords", "coordinates", "xyz", "atXYZ"),
        required=True,
    ),
    Quantity(
        "cell",
        "structure",
        "cell.f32",
        shape=(3, 3),
        dimension="length",
        unit="angstrom",
        aliases=("cell", "lattice"),
    ),
    Quantity("pbc", "structure", "pbc.u8", "|u1", shape=(3,), aliases=("pbc",)),
    Quantity("total_charge", "state", "total_charge.f32", unit="e", dimension="charge"),
    Quantity("spin_multiplicity", "state", "total_spin.f32"),
    Quantity(
        "energy",
        "label",
        "E.f64",
        "<f8",
        dimension="energy",
        unit="eV",
        aliases=("energy", "E", "energies", "total_energy", "free_energy", "ePBE0+MBD"),
        loss_weight=10.0,
        loss_note="per eV",
        predict=molecule_energies,
        ase_name="energy",
    ),
    Quantity(
        "forces",
        "label",
        "F_pack.f32",
        per_atom=True,
        shape=(3,),
        dimension="force",
        unit="eV/angstrom",
        aliases=("forces", "force", "F", "totFOR"),
        loss_weight=10.0,
        loss_note="per eV/Å",
        ase_name="forces",
    ),
    Quantity(
        "dipole",
        "label",
        "D.f32",
        shape=(3,),
        dimension="dipole",
        unit="e*angstrom",
        aliases=("dipole", "dipoles", "dipole_moment", "D"),
        loss_weight=5.0,
        loss_note="per e·Å",
        predict=dipoles,
        ase_name="dipole",
    ),
    Quantity(
        "charges",
        "label",
        "q_pack.f32",
        per_atom=True,
        dimension="charge",
        unit="e",
        aliases=(
            "charges",
            "q",
            "atomic_charges",
            "partial_charges",
            "mulliken_charges",
            "hirshfeld_charges",
        ),
        loss_weight=1.0,
        loss_note="per e",
        ase_name="charges",
    ),
    Quantity(
        "spin_populations",
        "label",
        "s_pack.f32",
        per_atom=True,
        dimension="charge",
        unit="e",
        aliases=("spin_populations", "spin_charges", "magmoms"),
        loss_weight=2.0,
        loss_note="per electron; needs model.spin_populations",
        needs="spin_populations",
        ase_name="magmoms",
    ),
    Quantity(
        "stress",
        "label",
        "stress.f32",
        shape=(6,),
        dimension="stress",
        unit="eV/angstrom^3",
        aliases=("stress",),
        loss_weight=100.0,
        loss_note="per eV/Å³; molecules with a cell only",
        predict=voigt_stresses,
        ase_name="stress",
    ),
    Quantity(
        "s_squared",
        "label",
        "s_squared.f32",
        unit="hbar^2",
        aliases=("s_squared", "spin_squared"),
    ),
    Quantity(
        "weight", "label", "weight.f32", aliases=("weight", "config_weight")
    ),  # of the molecule in the loss; missing: 1
    Quantity(
        "level",
        "index",
        "level.i16",
        "<i2",
        aliases=(
            "level_of_theory",
            "theory",
            "method",
            "functional",
            "basis",
            "basis_set",
            "solvent_model",
            "solvent",
        ),
    ),
    Quantity("group", "index", "group.i32", "<i4", aliases=("name",)),
)

QUANTITIES: dict[str, Quantity] = {entry.name: entry for entry in _TABLE}
"""Name -> quantity, in the order in which they are shown."""

DERIVED: dict[str, tuple[str, Dimension, tuple[str, ...]]] = {
    "gradient": ("forces", "force", ("gradient", "gradients", "grad")),
    "virial": ("stress", "energy", ("virial", "virials")),
}
"""Labels that files store under another definition: name -> the quantity they become,
kind of unit, keys. A gradient is the negative force, a virial the negative stress times
the volume."""


def labels() -> tuple[Quantity, ...]:
    """What molecules may be labelled with."""
    return tuple(q for q in QUANTITIES.values() if q.role == "label")


def trained() -> tuple[Quantity, ...]:
    """Labels that have a weight in the loss."""
    return tuple(q for q in labels() if q.loss_weight is not None)


def of_role(*roles: Role) -> tuple[Quantity, ...]:
    """Quantities of these roles."""
    return tuple(q for q in QUANTITIES.values() if q.role in roles)


@contextmanager
def added(quantity: Quantity) -> Iterator[Quantity]:
    """Have one more quantity in the table, as an extension or a test does.

    Raises:
        ValueError: The name or the file is taken.
    """
    for known in QUANTITIES.values():
        if known.name == quantity.name or known.file == quantity.file:
            raise ValueError(
                f"the table has {known.name} in {known.file} already; choose another "
                f"name and file than {quantity.name} in {quantity.file}"
            )
    QUANTITIES[quantity.name] = quantity
    try:
        yield quantity
    finally:
        del QUANTITIES[quantity.name]
