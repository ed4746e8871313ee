"""What a training says: each line once, whatever libraries do to the root logger."""

import io
import logging

import pytest
from physnet_training.train import display
from physnet_training.train.display import TrainingBar, stages_shown
from physnet_training.train.trainer import TrainingProgress
from rich.console import Console


def test_a_stage_is_said_once_and_warnings_by_their_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("physnet_training")
    monkeypatch.setattr(root, "handlers", [logging.StreamHandler(elsewhere)])
    before = ours.level, ours.propagate, list(ours.handlers)
    shown = io.StringIO()
    with stages_shown(Console(file=shown)):
        logging.getLogger("physnet_training.train.run").info("evaluating %d", 3)
        logging.getLogger("physnet_training.loading").warning("no shape of [7] holds 8")
    assert shown.getvalue() == "evaluating 3\nwarning: no shape of [7] holds 8\n"
    assert not elsewhere.getvalue()
    assert (ours.level, ours.propagate, list(ours.handlers)) == before
    ours.warning("later")
    assert elsewhere.getvalue() == "later\n"


def test_a_log_file_has_a_line_per_validation_and_per_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    errors = {"energy_mae_ev": 0.0123, "forces_mae_ev_per_angstrom": 0.0456}
    shown = io.StringIO()
    with TrainingBar(Console(file=shown), 400) as bar:
        for step, now, validation in (
            (50, 20.0, None),
            (100, 40.0, errors),  # at once
            (150, 99.0, None),
            (200, 101.0, None),  # more than a minute after the last line
            (250, 120.0, None),
        ):
            bar(TrainingProgress(step, 400, 1.5, now, validation))
    tail = "validation MAE E 12.3 meV, F 45.6 meV/Å"
    assert shown.getvalue().splitlines() == [
        "compiling",
        f"step 100/400  40 s, 120 s left  loss 1.5  {tail}",
        f"step 200/400  101 s, 101 s left  loss 1.5  {tail}",
    ]
