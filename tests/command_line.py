"""Calling ``physnet-ase`` from tests."""

from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from physnet_ase.cli import app


def call(*arguments: Any, code: int = 0) -> Result:
    """Result of a call that must end with this code."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: Any, code: int = 2) -> str:
    """The one line on stderr of a call that must fail."""
    lines = call(*arguments, code=code).stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("physnet-ase: error: ")
    return str(lines[0])
