"""The command ``physnet-ase analyze``: what trajectories say, drawn and in numbers."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from physnet_ase.commands.dynamics import parse_state
from physnet_ase.commands.options import DEFAULT_MODEL, AllowUnseen, AsJson, plain

if TYPE_CHECKING:
    from physnet_ase.simulate.analysis import Curve

analysis_app = typer.Typer()

Kind = Literal["rdf", "msd", "vdos", "ir", "gap"]


@analysis_app.command()
@plain
def analyze(
    kind: Annotated[
        Kind,
        typer.Argument(
            help="rdf: pair distribution; msd: diffusion; vdos: vibrations; ir: "
            "infrared spectrum; gap: between two states."
        ),
    ],
    trajectories: Annotated[
        list[Path],
        typer.Argument(
            help="Files, or folders of physnet-ase md; replicas are averaged."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Picture; KIND.png by default.")
    ] = None,
    pair: Annotated[str, typer.Option(help="Elements of rdf, such as O,H.")] = "O,O",
    element: Annotated[
        str | None, typer.Option(help="Atoms of msd; all by default.")
    ] = None,
    longest: Annotated[float, typer.Option(help="Largest distance of rdf, Å.")] = 8.0,
    resolution: Annotated[
        float, typer.Option(help="Width of lines of vdos and ir, cm⁻¹.")
    ] = 10.0,
    skip: Annotated[float, typer.Option(help="ps at the start to leave out.")] = 0.0,
    state: Annotated[
        list[str] | None,
        typer.Option(help="CHARGE,MULTIPLICITY, two of them: lower and upper of gap."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Model directory or pretrained name, for gap.")
    ] = DEFAULT_MODEL,
    allow_unseen_states: AllowUnseen = False,
    as_json: AsJson = False,
) -> None:
    """Pair distributions, diffusion, spectra and gaps along trajectories."""
    from physnet_ase.commands.structure_files import check_folder
    from physnet_ase.simulate import analysis

    picture = Path(f"{kind}.png") if output is None else output
    check_folder(picture)
    states = [parse_state(one) for one in state or []]
    if kind == "gap" and len(states) != 2:
        raise ValueError("gap needs two --state, the lower and the upper one")
    potential = None
    if kind == "gap":
        from physnet_ase.potential import load_potential

        potential = load_potential(model)

    def curve(path: Path) -> "Curve":
        frames = analysis.read_frames(path, skip)
        if kind == "rdf":
            first, _, second = pair.partition(",")
            return analysis.radial_distribution(
                frames, first.strip(), second.strip() or None, longest=longest
            )
        if kind == "msd":
            return analysis.mean_squared_displacement(frames, element)
        if kind == "vdos":
            return analysis.vibrational_density(frames, resolution)
        if kind == "ir":
            return analysis.infrared_spectrum(frames, resolution)
        if potential is None:
            raise ValueError("gap needs a model")
        return analysis.state_gap(
            frames, potential, *states, allow_unseen_states=allow_unseen_states
        )

    files = [file for path in trajectories for file in _files(path)]
    found = analysis.average([curve(path) for path in files])
    found.draw(picture)
    report: dict[str, Any] = {
        "kind": kind,
        "trajectories": [str(path) for path in files],
        "picture": str(picture),
    }
    for name in ("coefficient", "mean", "spread", "reorganization_energy"):
        if hasattr(found, name):
            report[name] = getattr(found, name)
    if as_json:
        report |= {"x_label": found.x_label, "label": found.label}
        report |= {"x": found.x.tolist(), "values": found.values.tolist()}
        typer.echo(json.dumps(report))
        return
    for name, unit in (
        ("coefficient", "diffusion coefficient, 1e-5 cm²/s"),
        ("mean", "mean gap, eV"),
        ("spread", "its standard deviation, eV"),
        ("reorganization_energy", "reorganization energy, eV"),
    ):
        if name in report:
            typer.echo(f"{unit}: {report[name]:.4g}")
    typer.echo(f"wrote {picture}")


def _files(path: Path) -> list[Path]:
    """Trajectories of a run folder, or the file itself.

    Raises:
        ValueError: There is no such file, or the folder holds none.
    """
    if path.is_dir():
        found = sorted(path.glob("replica-*.*"))
        if not found:
            raise ValueError(f"{path} holds no trajectories of physnet-ase md")
        return found
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    return [path]
