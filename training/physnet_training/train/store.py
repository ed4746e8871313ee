"""The state of a training on disk: weights, moments and position, by orbax."""

from pathlib import Path
from typing import Any

_KEPT = 2  # newest states: the last one may be damaged by a crash of the machine


class RunStore:
    """Stored states of a run.

    Args:
        folder: Made when the first state is saved or looked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manager: Any = None

    def save(self, step: int, state: dict[str, Any], meta: dict[str, Any]) -> None:
        """Store arrays and what JSON can hold."""
        import orbax.checkpoint as ocp  # slow to import, needed by trainings only

        if self._open().latest_step() == step:
            return
        self._open().save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
            ),
            force=True,
        )

    def restore(self, like: dict[str, Any]) -> tuple[int, dict[str, Any], Any]:
        """The newest state: its step, arrays as in ``like``, and the rest.

        Raises:
            FileNotFoundError: No state was stored yet.
        """
        import orbax.checkpoint as ocp

        latest = self._open().latest_step()
        if latest is None:
            raise FileNotFoundError(
                f"{self.folder} holds no stored state; nothing to resume, start the "
                "training again"
            )
        stored = self._open().restore(
            latest,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore()
            ),
        )
        return int(latest), stored.state, stored.meta

    def _open(self) -> Any:
        if self._manager is None:
            import orbax.checkpoint as ocp

            self._manager = ocp.CheckpointManager(
                self.folder.resolve(),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=_KEPT, create=True, enable_async_checkpointing=False
                ),
            )
        return self._manager
