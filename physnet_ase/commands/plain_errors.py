"""Commands end with one line on stderr, never a traceback, and a telling exit code."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec

import typer

P = ParamSpec("P")


def plain_errors(program: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Turn a command's errors into one line: code 2 for bad input, 1 for no result.

    Args:
        program: Name of the command, which starts the line.
    """

    def complain(text: str) -> None:
        typer.echo(f"{program}: {' '.join(text.split())}", err=True)

    said: set[str] = set()

    def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in said:  # it may come from several places
            said.add(str(message))
            complain(f"warning: {message}")

    def decorate(command: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(command)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
            said.clear()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("default", UserWarning)
                    warnings.showwarning = show_warning
                    command(*args, **kwargs)
            except typer.Exit:
                raise
            except (RuntimeError, ArithmeticError) as error:
                complain(f"error: {error}")
                raise typer.Exit(1) from error
            except (ValueError, TypeError, OSError, ImportError) as error:
                complain(f"error: {error}")
                raise typer.Exit(2) from error

        return wrapped

    return decorate
