"""The state of a training on disk: weights, moments and position, by orbax."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

_KEPT = 2  # newest states: the last one may be damaged by a crash of the machine
_FULL = (errno.ENOSPC, errno.EDQUOT)
logger = logging.getLogger(__name__)


class Stored(NamedTuple):
    """A state as it was saved."""

    step: int
    state: dict[str, Any]
    meta: Any


class RunStore:
    """Stored states of a run.

    Args:
        folder: Made when the first state is saved or looked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manager: Any = None
        self._sound: set[int] = set()  # steps saved or read by this object

    def save(self, step: int, state: dict[str, Any], meta: dict[str, Any]) -> None:
        """Store arrays and what JSON can hold; states of later steps are dropped.

        Raises:
            OSError: The disk is full.
        """
        import orbax.checkpoint as ocp  # slow to import, needed by trainings only

        for later in self._steps():
            if later > step or (later == step and step not in self._sound):
                self._open().delete(later)
        if step in self._steps():
            return
        with full_disk_is_said(self.folder), _errors_said_once():
            self._open().save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
                ),
                force=True,
            )
        self._sound.add(step)

    def states(self, like: dict[str, Any]) -> Iterator[Stored]:
        """Stored states, the newest first; a damaged one is left out, and that said.

        Args:
            like: Arrays of the shapes and types that are expected.
        """
        import orbax.checkpoint as ocp

        for step in sorted(self._steps(), reverse=True):
            try:
                with _errors_said_once():
                    stored = self._open().restore(
                        step,
                        args=ocp.args.Composite(
                            state=ocp.args.StandardRestore(like),
                            meta=ocp.args.JsonRestore(),
                        ),
                    )
                found = Stored(step, dict(stored.state), stored.meta)
                found.meta["loader"]  # an empty file reads as nothing
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                reason = str(error).strip().splitlines() or [type(error).__name__]
                logger.warning(
                    "the state of step %d in %s cannot be read (%s); taking the one "
                    "before",
                    *(step, self.folder, reason[0][:200]),
                )
                continue
            self._sound.add(step)
            yield found

    def _steps(self) -> list[int]:
        return [int(step) for step in self._open().all_steps()]

    def _open(self) -> Any:
        if self._manager is None:
            import jax
            import orbax.checkpoint as ocp

            self.folder.mkdir(parents=True, exist_ok=True)
            # Each process by itself: one writes, and all read.
            own, several = jax.process_index(), jax.process_count() > 1
            alone = ocp.options.MultiprocessingOptions(
                primary_host=own,
                active_processes={own} if several else None,
                barrier_sync_key_prefix=f"process {own}" if several else None,
            )
            self._manager = ocp.CheckpointManager(
                self.folder.resolve(),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=_KEPT,
                    create=False,  # alone it would refuse to
                    enable_async_checkpointing=False,
                    multiprocessing_options=alone,
                ),
            )
        return self._manager


@contextmanager
def _errors_said_once() -> Iterator[None]:
    """Orbax logs, with a traceback for each of its threads, what it raises anyway."""
    theirs = logging.getLogger("absl")
    before = theirs.level
    theirs.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        theirs.setLevel(before)


@contextmanager
def full_disk_is_said(folder: Path) -> Iterator[None]:
    """Turn what a full disk does to those who write into one sentence.

    Raises:
        OSError: The disk is full.
    """
    try:
        yield
    except Exception as error:  # tensorstore has errors of its own
        number = getattr(error, "errno", None)
        if number not in _FULL and "No space left" not in str(error):
            raise
        raise OSError(
            number or errno.ENOSPC,
            f"the disk of {folder} is full; free some space and continue the run with "
            "physnet-train resume: the state stored before is kept",
        ) from error
