"""The charge- and spin-aware model on its own: one molecule in several states.

    python training/examples/02_charge_spin.py --out states.json

The weights are random: the energies mean nothing yet, but everything that has to hold
for any weights can be seen. The state changes energy, forces and charges; the charges
sum to the total charge; a state that cannot be, or that the model does not know, is
refused. Both kinds of conditioning are shown.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ase.build import molecule

from physnet_ase import PhysNetCalculator, untrained_potential
from physnet_ase.config import ModelConfig

STATES = ((0, 1), (1, 2), (-1, 2), (0, 3))  # (charge in e, multiplicity 2S+1)
SIZES = {"num_features": 32, "num_radial": 16, "num_blocks": 2, "cutoff": 5.0}


def show_states(conditioning: str, name: str) -> list[dict[str, float]]:
    """Evaluate one geometry in all states, in one batch; print and return a table."""
    config = ModelConfig(conditioning=conditioning, **SIZES)
    potential = untrained_potential(config, states=STATES, seed=1)
    results = potential.evaluate(
        molecule(name), states=STATES, properties=("energy", "forces", "charges")
    )
    print(f"\n{name}, conditioning by {conditioning}")
    print("charge  2S+1  energy (eV)  largest force (eV/Å)  sum of charges (e)")
    table = []
    for result in results:
        row = {
            "charge": result.state.charge,
            "multiplicity": result.state.multiplicity,
            "energy_ev": float(result.energy),
            "largest_force": float(np.linalg.norm(result.forces, axis=1).max()),
            "sum_of_charges": round(float(result.charges.sum()), 6) + 0.0,  # no -0
        }
        table.append(row)
        print(
            f"{row['charge']:+6d}{row['multiplicity']:6d}{row['energy_ev']:13.4f}"
            f"{row['largest_force']:22.4f}{row['sum_of_charges']:20.6f}"
        )
    return table


def show_refusals(name: str) -> None:
    """What the calculator says to states that make no sense."""
    potential = untrained_potential(ModelConfig(**SIZES), states=STATES)
    atoms = molecule(name)
    atoms.calc = PhysNetCalculator(potential)
    print("\nStates that are refused:")
    for charge, multiplicity in ((1, 1), (0, 2), (0, 5), (0.5, 2)):
        atoms.info.update(charge=charge, spin_multiplicity=multiplicity)
        try:
            atoms.get_potential_energy()
        except ValueError as error:
            print(f"  charge {charge}, multiplicity {multiplicity}: {error}")
        else:
            raise RuntimeError(f"({charge}, {multiplicity}) should be refused")


def main() -> None:
    """Show states, conditionings and refusals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the tables as JSON")
    parser.add_argument("--molecule", default="H2O", help="even electrons; H, C, N, O")
    parser.add_argument("--smoke", action="store_true", help="one conditioning only")
    options = parser.parse_args()

    conditionings = ("attention",) if options.smoke else ("attention", "embedding")
    tables = {kind: show_states(kind, options.molecule) for kind in conditionings}
    show_refusals(options.molecule)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(tables, indent=2) + "\n")
        print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
