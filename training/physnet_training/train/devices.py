"""Devices of a training: who computes which share of a batch, and who writes.

Each device computes the gradient of its own molecules; the sums over all devices are
those of the whole batch. Weights and moments are the same everywhere.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from physnet_ase.graph import Graph

SHARES = "shares"
"""Name of the axis along which batches are divided over devices."""
_LAST_WAIT = 20  # seconds that a failed process waits for the others before all end


def join(
    detect: bool,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Make this process one of several that train together; nothing when not asked.

    Must come before anything is computed.

    Args:
        detect: Ask Slurm, MPI or Kubernetes for what is not given.
        coordinator: Address and port of process 0, ``host:port``.
        num_processes: How many there are.
        process_id: Number of this one.

    Raises:
        ValueError: Only some of the last three were given.
        RuntimeError: Nothing was found, or the others did not come.
    """
    given = (coordinator, num_processes, process_id)
    if not detect and all(value is None for value in given):
        return
    if not detect and any(value is None for value in given):
        raise ValueError(
            "--coordinator, --num-processes and --process-id belong together; give all "
            "three, or --distributed where Slurm or MPI started the processes"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # the trainer answers SIGTERM itself
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            shutdown_timeout_seconds=_LAST_WAIT,
        )
    except ValueError as error:
        raise RuntimeError(
            f"--distributed found no Slurm, MPI or Kubernetes that says which process "
            f"this is ({error}); give --coordinator HOST:PORT --num-processes N "
            "--process-id I"
        ) from error


class Devices:
    """Devices among which the molecules of a step are divided.

    Args:
        most: Devices of each process, the first ones; None: all.

    Raises:
        ValueError: A process has fewer.
    """

    def __init__(self, most: int | None = None) -> None:
        self.process_index = jax.process_index()
        self.process_count = jax.process_count()
        of_process = [
            [device for device in jax.devices() if device.process_index == process]
            for process in range(self.process_count)
        ]
        fewest = min(len(own) for own in of_process)
        if most is None and any(len(own) != fewest for own in of_process):
            raise ValueError(
                f"the processes have {', '.join(str(len(own)) for own in of_process)} "
                f"devices; give --devices {fewest}, so that all shares are alike"
            )
        if most is not None and not 1 <= most <= fewest:
            raise ValueError(f"--devices must be in 1..{fewest}, got {most}")
        self.local = most or fewest
        chosen = [device for own in of_process for device in own[: self.local]]
        self.mesh = Mesh(np.array(chosen), (SHARES,))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())

    def __str__(self) -> str:
        name = "device" if self.count == 1 else "devices"
        text = f"{self.count} {name}"
        if self.process_count > 1:
            text += f" of {self.process_count} processes"
        return text

    @property
    def count(self) -> int:
        """Of all processes."""
        return int(self.mesh.size)

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.process_index == 0

    def check(self, batch_size: int) -> None:
        """Refuse a batch that cannot be divided evenly.

        Raises:
            ValueError: It cannot; both numbers are named.
        """
        if batch_size % self.count:
            raise ValueError(
                f"optimizer.batch_size = {batch_size} cannot be divided over "
                f"{self.count} devices; set it to a multiple of {self.count}, or give "
                "--devices N for fewer of them"
            )

    def put(self, shares: Sequence[Graph]) -> Graph:
        """A batch on the devices.

        Args:
            shares: Graphs of one shape: one for each device of this process, or as
                many again for each further batch that a step accumulates.

        Returns:
            The shares of the devices behind each other; indices count inside each
            share. Several batches are stacked in front.
        """
        turns = [
            shares[start : start + self.local]
            for start in range(0, len(shares), self.local)
        ]
        spec = PartitionSpec(SHARES)
        if len(turns) == 1:
            [parts] = turns
        else:
            parts = [
                jax.tree.map(lambda *each: np.stack(each), *of)
                for of in zip(*turns, strict=True)
            ]
            spec = PartitionSpec(None, SHARES)
        if self.count == 1:
            [graph] = parts
            return jax.device_put(graph)

        def together(*parts: np.ndarray) -> jax.Array:
            return jax.make_array_from_process_local_data(
                NamedSharding(self.mesh, spec),
                np.concatenate(parts, axis=len(spec) - 1),
            )

        return jax.tree.map(together, *parts)

    def everywhere(self, tree: Any) -> Any:
        """Arrays that are the same in all processes, on all devices."""
        if self.count == 1:
            return tree

        def copied(array: Any) -> jax.Array:
            return jax.make_array_from_process_local_data(
                self.replicated, np.asarray(array)
            )

        return jax.tree.map(copied, tree)

    def here(self, array: jax.Array) -> jax.Array:
        """A replicated array on the first device of this process."""
        return array.addressable_data(0)

    def storable(self, tree: Any) -> Any:
        """Replicated arrays as one process stores and restores them."""
        alone = self.process_count == 1
        return jax.tree.map(self.here if alone else np.asarray, tree)

    def wait(self, where: str) -> None:
        """Wait until all processes have come here."""
        if self.process_count > 1:
            multihost_utils.sync_global_devices(where)

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.process_count == 1:
            return flag
        return bool(multihost_utils.process_allgather(np.array(flag)).any())

    def agreed(self, number: float) -> float:
        """A number of process 0, in float32 where there are others."""
        if self.process_count == 1:
            return number
        own = np.array(number, np.float32)
        return float(multihost_utils.broadcast_one_to_all(own))
