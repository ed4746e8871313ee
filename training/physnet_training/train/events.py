"""The history of a run as TensorBoard events, beside ``history.jsonl``."""

from pathlib import Path
from typing import Any


class Events:
    """Writes lines of the history as scalars; a context manager.

    Args:
        folder: Where TensorBoard is to look.
        first_step: Events of this step and later ones are of a course that was given
            up, and are hidden.

    Raises:
        ImportError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "--tensorboard needs tensorboardX, which is not installed: pip install "
                "'physnet-ase[tensorboard]', or leave it out"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, line: dict[str, Any]) -> None:
        """Write what a line of ``history.jsonl`` holds."""
        scalars = {
            "learning_rate": line["learning_rate"],
            "data/wait_fraction": line["data"]["wait_fraction"],
        }
        scalars |= {f"train/{name}": value for name, value in line["train"].items()}
        for row in line["errors"]:
            state = "all"
            if row["charge"] is not None:
                state = f"charge {row['charge']:+d}, multiplicity {row['multiplicity']}"
            scalars |= {
                f"validation/{name}/{state}": value
                for name, value in row.items()
                if "_mae_" in name or "_rmse_" in name
            }
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()
