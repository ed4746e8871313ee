"""The file from which a simulation goes on, and whose it is."""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from physnet_ase.potential import Potential
from physnet_ase.simulate.settings import OWN, Event
from physnet_ase.simulate.system import Replica

CHECKPOINT_VERSION = 3
"""Raised when a stored checkpoint can no longer be continued."""


def save_checkpoint(
    path: Path, arrays: Mapping[str, np.ndarray], identity: Mapping[str, Any]
) -> None:
    """Write arrays and what the run must match to ``path``, all or nothing."""
    identity = {"checkpoint_version": CHECKPOINT_VERSION, **identity}
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        everything: dict[str, Any] = {"identity": json.dumps(identity), **arrays}
        np.savez(file, **everything)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a checkpoint that belongs to this very simulation.

    Raises:
        ValueError: The file is missing or damaged, or was written by a simulation that
            differs in ``identity``; the message names each difference.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        stored = json.loads(str(arrays.pop("identity")))
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such checkpoint; leave resume out to start anew"
        ) from None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: not a readable checkpoint ({error}); start anew"
        ) from error
    wanted = {"checkpoint_version": CHECKPOINT_VERSION, **identity}
    wanted = json.loads(json.dumps(wanted))
    different = [key for key in wanted if stored.get(key) != wanted[key]]
    if different:
        shown = "; ".join(
            f"{key} was {stored.get(key)!r}, now {wanted[key]!r}" for key in different
        )
        raise ValueError(
            f"{path}: belongs to another simulation ({shown}); pass what it was "
            "started with (only steps may change), or start anew"
        )
    return arrays


def simulation_identity(
    replicas: Sequence[Replica], potential: Potential, events: Sequence[Event]
) -> dict[str, Any]:
    """What a restart must share with the run it continues."""
    weights = hashlib.sha256()
    for leaf in jax.tree.leaves(potential.params):
        weights.update(leaf.tobytes())
    free = {"steps", "checkpoint_every", *OWN}
    identity = replicas[0].settings.model_dump(exclude=free) | {
        "replicas": len(replicas),
        "weights": weights.hexdigest()[:16],
        "dtype": str(potential.dtype),
        "events": [f"step {event.step}: {event.state}" for event in events],
    }
    if any(one.settings.final_temperature_K is not None for one in replicas):
        shared = replicas[0].settings
        identity["ramp_steps"] = shared.ramp_steps or shared.steps
    for index, replica in enumerate(replicas):
        prefix = f"replica {index} " if len(replicas) > 1 else ""
        identity |= {prefix + key: x for key, x in _own_identity(replica).items()}
    return identity


def _own_identity(replica: Replica) -> dict[str, Any]:
    atoms, structure = replica.atoms, hashlib.sha256()
    for array in (
        atoms.numbers,
        atoms.positions,
        atoms.cell.array,
        atoms.pbc,
        atoms.get_masses(),
        replica.mobile,
    ):
        structure.update(np.ascontiguousarray(array).tobytes())
    settings = replica.settings
    return {
        "atoms": structure.hexdigest()[:16],
        "state": str(replica.state),
        "temperature_K": settings.temperature_K,
        "final_temperature_K": settings.final_temperature_K,
        "seed": settings.seed,
    }
