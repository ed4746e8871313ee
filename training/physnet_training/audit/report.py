"""An audit in words, for the end of a conversion and for ``inspect``."""

from collections.abc import Iterator
from typing import Any

_MARKS = {"plausible": "ok", "suspicious": "SUSPICIOUS", "unclear": "unclear"}
_SHOWN = 20


def audit_lines(audit: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Topic and text of each thing that an audit found about the numbers.

    Args:
        audit: What ``audit.audit_dataset`` returned.
    """
    forces, distances = audit["forces"], audit["distances"]
    if forces is not None:
        yield (
            "forces",
            f"median {forces['p50']:.3g}, 99 % below {forces['p99']:.3g}, largest "
            f"{forces['largest']:.3g} eV/Å (row {forces['largest_row']})",
        )
    if distances is not None:
        yield (
            "shortest distance",
            f"median {distances['p50']:.3g}, 99 % above {distances['p1']:.3g}, least "
            f"{distances['shortest']:.3g} Å (row {distances['shortest_row']})",
        )
    if audit["energies"] is not None:
        away = audit["energies"]["deviation_per_atom"]
        yield (
            "energies",
            "away from the linear fit to elements and states: median "
            f"{away['median_absolute']:.3g}, 95 % below {away['p95_absolute']:.3g} "
            "eV per atom",
        )
    for verdict in audit["units"]:
        mark = _MARKS[verdict["verdict"]]
        yield "plausibility", f"{verdict['quantity']} {mark}: {verdict['text']}"
    yield "duplicates", _duplicates(audit["duplicates"])
    yield "suspicious rows", "\n".join(_suspicious(audit["suspicious"]))


def _duplicates(found: dict[str, Any]) -> str:
    if not found["count"]:
        return "none"
    row, first = found["rows"][0]
    text = (
        f"{found['count']:,} molecules stand in the data already, same geometry, state "
        f"and level (first: row {row} repeats row {first}); split by geometry to keep "
        "copies together"
    )
    if found["contradicting"]:
        text += (
            f"; {found['contradicting']:,} of them with ANOTHER ENERGY: data of "
            "several levels or solvents without saying so?"
        )
    return text


def _suspicious(found: dict[str, Any]) -> Iterator[str]:
    if not found["total"]:
        yield "none"
        return
    kinds = ", ".join(f"{kind}: {count:,}" for kind, count in found["by_kind"].items())
    yield f"{found['total']:,} ({kinds}); look at them with --rows"
    for row in found["rows"][:_SHOWN]:
        yield f"row {row['row']}: {row['reason']}"
    if found["total"] > _SHOWN:
        yield "…"


def element_text(audit: dict[str, Any]) -> str:
    """Elements with their atoms and the molecules that hold them."""
    return ", ".join(
        f"{entry['symbol']} {entry['atoms']:,} in {entry['molecules']:,} molecules"
        for entry in audit["elements"]
    )
