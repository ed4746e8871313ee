"""What TensorBoard gets to see of a run, and what is said where it is missing."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from physnet_training.train.events import Events

LINE = {
    "step": 40,
    "learning_rate": 1e-3,
    "train": {"loss": 2.0, "energy": 0.1},
    "data": {"wait_fraction": 0.01, "shapes": 3},
    "errors": [
        {"charge": None, "multiplicity": None, "molecules": 9, "energy_mae_ev": 0.2},
        {"charge": 1, "multiplicity": 2, "molecules": 4, "energy_mae_ev": None},
    ],
}


def test_a_line_of_the_history_becomes_scalars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[Any, ...]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            said.append((folder, purge_step))

        def add_scalar(self, *scalar: Any) -> None:
            said.append(scalar)

        def flush(self) -> None: ...

        def close(self) -> None:
            said.append(("closed",))

    module = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    with Events(tmp_path, 31) as events:
        events.write(LINE)
    assert said == [
        (str(tmp_path), 31),
        ("learning_rate", 1e-3, 40),
        ("data/wait_fraction", 0.01, 40),
        ("train/loss", 2.0, 40),
        ("train/energy", 0.1, 40),
        ("validation/energy_mae_ev/all", 0.2, 40),
        ("closed",),
    ]


def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'physnet-ase\[tensorboard\]'"):
        Events(tmp_path, 1)
