"""What a training says: each line once, whatever libraries do to the root logger."""

import io
import logging

import pytest
from physnet_training.train.display import stages_shown
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
