"""The data commands of ``physnet-train``: convert and inspect."""

import typer

from physnet_ase.plain_errors import plain_errors
from physnet_training.convert_command import convert
from physnet_training.inspect_command import inspect

data_app = typer.Typer()
_plain = plain_errors("physnet-train")

data_app.command()(_plain(convert))
data_app.command()(_plain(inspect))
