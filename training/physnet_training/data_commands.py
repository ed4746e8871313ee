"""The data commands of ``physnet-train``: convert and inspect."""

import typer

from physnet_ase.commands.plain_errors import plain_errors
from physnet_training.audit.command import inspect
from physnet_training.conversion.command import convert

data_app = typer.Typer()
_plain = plain_errors("physnet-train")

data_app.command()(_plain(convert))
data_app.command()(_plain(inspect))
