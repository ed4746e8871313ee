"""A picture of a molecule's states: one column per charge, one line per state."""

from pathlib import Path

from physnet_ase.observables.results import StateEnergies
from physnet_ase.state import signed

_SPIN_NAMES = {1: "singlet", 2: "doublet", 3: "triplet", 4: "quartet", 5: "quintet"}


def draw_level_diagram(scan: StateEnergies, path: Path) -> None:
    """Write the relative energies of ``scan`` as a picture.

    Args:
        scan: Energies of several states, from ``scan_states``.
        path: Picture to write; its ending chooses the format.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The ending names no picture format.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "a level diagram needs matplotlib; install it: pip install matplotlib"
        ) from error
    charges = sorted({state.charge for state in scan.states})
    figure = Figure(figsize=(2.0 + 2.0 * len(charges), 4.5), layout="constrained")
    axes = figure.subplots()
    # Labels of near levels are moved apart; the lines stay where they belong.
    spacing = 0.05 * max(max(scan.relative_energies), 1e-3)
    levels = sorted(zip(scan.relative_energies, scan.states, strict=True))
    free = dict.fromkeys(charges, -spacing)
    for energy, state in levels:
        column = charges.index(state.charge)
        colour = f"C{(state.multiplicity - 1) % 10}"
        axes.hlines(energy, column - 0.4, column, colors=colour, linewidth=2.0)
        name = _SPIN_NAMES.get(state.multiplicity, f"2S+1 = {state.multiplicity}")
        height = max(energy, free[state.charge])
        free[state.charge] = height + spacing
        axes.text(column + 0.04, height, f"{name}  {energy:.2f}", va="center", size=8)
    axes.set_xticks(
        [c - 0.2 for c in range(len(charges))], [signed(charge) for charge in charges]
    )
    axes.set_xlim(-0.6, len(charges) - 0.3)
    axes.set_xlabel("total charge / e")
    axes.set_ylabel("energy above the ground state / eV")
    title = f"{scan.geometries[0].get_chemical_formula()}, {scan.kind}"
    corrected = scan.zero_point_energies is not None
    axes.set_title(title + ", with zero-point energies" * corrected, size=10)
    axes.margins(y=0.1)
    figure.savefig(path, dpi=150)
