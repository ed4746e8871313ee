"""The commands ``physnet-train label`` and ``collect-labels``."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from physnet_ase.commands.plain_errors import plain_errors
from physnet_ase.state import ElectronicState, signed

label_app = typer.Typer()
_plain = plain_errors("physnet-train")

_LOG_SECONDS = 30.0


@contextmanager
def label_bar(console: Console) -> Iterator[Callable[[int, int, int], None]]:
    """A progress bar with the rate and the time left, as a function to be called.

    Without a terminal it prints a line now and then, so that a log file stays readable.
    """
    columns = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    note = TextColumn("{task.fields[note]}")
    first, begin = -1, time.monotonic()
    shown = begin
    with Progress(
        TextColumn("labelling"),
        BarColumn(bar_width=24),
        *columns,
        note,
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("label", total=None, note="")

        def show(done: int, failed: int, total: int) -> None:
            nonlocal first, shown
            now = time.monotonic()
            if first < 0:  # what an earlier run left says nothing about the rate
                first = done - 1
                bar.reset(task, total=total, completed=first)
            rate = (done - first) / max(now - begin, 1e-9)
            text = f"{rate:.3g} labels/s" + (f", {failed} failed" if failed else "")
            bar.update(task, completed=done, note=text)
            if not console.is_terminal and now - shown > _LOG_SECONDS:
                shown = now
                left = f"{(total - done) / rate:.0f} s left"
                console.print(f"labelled {done}/{total}, {text}, {left}")

        yield show


@label_app.command()
@_plain
def label(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="STRUCTURES… TARGET: files that ASE reads (all frames; FILE@0 picks "
            "one), names such as H2O, smiles:CCO, lists of SMILES (.smi, .json), then "
            "a new folder",
            show_default=False,
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            help="gfn2-xtb, gfn1-xtb, pyscf, or package.module:factory, which is "
            "called with charge= and multiplicity= and returns an ASE calculator."
        ),
    ] = "gfn2-xtb",
    states: Annotated[
        str | None,
        typer.Option(
            help="Charge,multiplicity of each state, such as '0,1 1,2 -1,2 0,3'; "
            "those that the electron count forbids are skipped. Default: the state "
            "that each structure names."
        ),
    ] = None,
    functional: Annotated[
        str | None, typer.Option(help="For pyscf; default wb97x.")
    ] = None,
    basis: Annotated[
        str | None, typer.Option(help="For pyscf; default def2-svpd.")
    ] = None,
    grid_level: Annotated[
        int | None, typer.Option(help="For pyscf: grids, 0 to 9; default 3.")
    ] = None,
    density_fit: Annotated[
        bool | None,
        typer.Option(
            help="For pyscf; default on: three times as fast, gaps to 0.1 meV."
        ),
    ] = None,
    stability: Annotated[
        bool | None,
        typer.Option(
            help="For pyscf; default on: leave solutions that are no minimum."
        ),
    ] = None,
    level: Annotated[
        str, typer.Option(help="Level of theory to store; default: from the method.")
    ] = "",
    forces: Annotated[
        bool,
        typer.Option(
            help="Without them a label takes half the time: where only gaps are wanted."
        ),
    ] = True,
    sampling: Annotated[
        Literal["none", "displace", "modes", "dynamics"],
        typer.Option(
            help="Geometries: the structure itself, random displacements, thermal "
            "displacements along its normal modes, Langevin dynamics."
        ),
    ] = "none",
    samples: Annotated[
        int, typer.Option(help="Geometries per structure (and temperature).")
    ] = 10,
    vertical: Annotated[
        bool | None,
        typer.Option(
            "--vertical/--own-surface",
            help="Label each geometry in all states (gaps need that), sampled on the "
            "first state's surface; or give each state geometries of its own surface. "
            "Default: --own-surface for dynamics, else --vertical.",
        ),
    ] = None,
    relax: Annotated[
        bool, typer.Option("--relax", help="Relax each structure first.")
    ] = False,
    temperature: Annotated[
        list[float] | None,
        typer.Option(help="K, for modes and dynamics; repeatable; default 300."),
    ] = None,
    amplitude: Annotated[
        float, typer.Option(help="Å, standard deviation of each displacement.")
    ] = 0.05,
    timestep: Annotated[float, typer.Option(help="fs, of dynamics.")] = 0.5,
    stride: Annotated[int, typer.Option(help="Steps between two samples.")] = 50,
    burn_in: Annotated[int, typer.Option(help="Steps before the first sample.")] = 400,
    sampling_method: Annotated[
        str | None,
        typer.Option(
            help="Relax, vibrate and move with this cheaper method, such as gfn2-xtb."
        ),
    ] = None,
    relatives: Annotated[
        str,
        typer.Option(
            help="Of molecules given by SMILES label these, too: radicals (one H "
            "less), protonated, deprotonated; separated by commas. Ions are labelled "
            "in their own state."
        ),
    ] = "",
    max_relatives: Annotated[
        int | None, typer.Option(min=1, help="Most of each kind per molecule.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same geometries.")] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Parallel calculations; default: one per core.")
    ] = None,
    executor: Annotated[
        Literal["local", "slurm", "flux"],
        typer.Option(
            help="Where calculations run: processes of this machine, or a cluster "
            "(extra cluster): inside an allocation its cores, else a job for each."
        ),
    ] = "local",
    timeout: Annotated[
        float | None,
        typer.Option(help="s; a calculation that takes longer has failed."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try failed labels again.")
    ] = False,
) -> None:
    """Label structures in several states with a quantum chemistry method.

    Interrupt it at any time: the same command goes on where it stopped. Finished labels
    wait in TARGET.labels until all are there; what failed is listed in its
    failures.csv. Exit code 0: the labels are written, though some may have failed; 1:
    not one could be calculated; 2: wrong input.
    """
    from physnet_training.label import Method, Plan, Run, parse_states, read_structures
    from physnet_training.label import label as run_label

    if len(paths) < 2:
        raise ValueError("label needs at least one STRUCTURE and a TARGET folder")
    run = Run(workers, timeout, retry_failed, executor)
    wanted = None if states is None else parse_states(states)
    settings = _checked(
        kind=sampling,
        samples=samples,
        temperatures=tuple(temperature or (300.0,)),
        amplitude=amplitude,
        vertical=vertical,
        relax=relax,
        timestep_fs=timestep,
        stride=stride,
        burn_in=burn_in,
        seed=seed,
    )
    kinds: Any = [kind.strip() for kind in relatives.split(",") if kind.strip()]
    plan = Plan.of(
        read_structures(
            paths[:-1], own_states=wanted is None, kinds=kinds, most=max_relatives
        ),
        Method(
            method, functional, basis, grid_level, density_fit, stability, level, forces
        ),
        wanted,
        settings,
        None if sampling_method is None else Method(sampling_method),
    )
    for structure in plan.impossible:
        typer.echo(f"warning: none of the states is possible: {structure}", err=True)
    console = Console(stderr=True)
    with label_bar(console) as bar:
        report = run_label(plan, Path(paths[-1]), run=run, on_progress=bar)
    _show(report)


def _checked(**settings: Any) -> Any:
    """The sampling's settings; an error names the option."""
    from pydantic import ValidationError

    from physnet_training.label.sampling import Sampling

    try:
        return Sampling(**settings)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        option = {"temperatures": "temperature", "timestep_fs": "timestep"}.get(name)
        raise ValueError(
            f"--{(option or name).replace('_', '-')}: {problem['msg']}, got "
            f"{problem['input']}"
        ) from error


def _show(report: Any) -> None:
    """Print counts per state, what is not exact, and what comes next."""
    table = Table(title=str(report.target), title_justify="left")
    for heading in ("charge", "2S+1", "labelled", "failed", "impossible structures"):
        table.add_column(heading, justify="right")
    columns = (report.labelled, report.failed, report.skipped)
    states: set[ElectronicState] = set().union(*columns)
    for state in sorted(states):
        counts = (str(column[state]) for column in columns)
        table.add_row(signed(state.charge), str(state.multiplicity), *counts)
    Console().print(table)
    residuals = report.residuals
    typer.echo(
        "largest net force "
        f"{residuals['largest_net_force_ev_per_angstrom']:.2g} eV/Å (kept as it is)"
    )
    for state, excess in residuals["largest_spin_contamination"].items():
        if excess > 0.1:
            typer.echo(f"state {state}: <S²> exceeds S(S+1) by up to {excess:.2f}")
    if residuals["num_contaminated"]:
        typer.echo(
            f"{residuals['num_contaminated']} labels are spin-contaminated; "
            "physnet-train collect-labels --max-contamination 0.1 leaves them out"
        )
    if report.failures_file is not None:
        typer.echo(
            f"failed labels: {report.failed.total()}, see {report.failures_file}; "
            "--retry-failed tries them again"
        )
    typer.echo(f"{report.target} is complete; {report.target}.labels may go")


@label_app.command("collect-labels")
@_plain
def collect_labels(
    run: Annotated[Path, typer.Argument(help="TARGET.labels of a run of label.")],
    target: Annotated[Path, typer.Argument(help="A new folder.")],
    max_contamination: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Leave out labels whose <S²> is further from S(S+1) (ħ²)."
        ),
    ] = None,
) -> None:
    """Write what a run of label has finished by now; the run may go on meanwhile."""
    from physnet_training.label import collect

    written, left_out = collect(run, target, max_contamination=max_contamination)
    typer.echo(f"{target}: {written} labels, {left_out} left out as contaminated")
