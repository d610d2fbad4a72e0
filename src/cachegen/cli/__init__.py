"""The command line: `cachegen demo`, `save`, `load`, `serve` and the others listed below."""

import sys
from typing import Annotated

import typer

from cachegen.cli.calibration.command import calibrate
from cachegen.cli.chunks import decode, encode, inspect
from cachegen.cli.contexts.command import load, save
from cachegen.cli.contexts.listing import contexts
from cachegen.cli.demo.command import demo
from cachegen.cli.evaluation import evaluate
from cachegen.cli.serve import serve
from cachegen.cli.simulate import simulate

app = typer.Typer(
    name="cachegen",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        from cachegen import __version__

        print(f"cachegen {__version__}")
        raise typer.Exit


@app.callback()
def cachegen(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """KV caches of long contexts: encoded small, stored anywhere, loaded fast."""
    del version


for command in (
    *(demo, calibrate, encode, decode, inspect),
    *(save, load, contexts, serve, simulate),
):
    app.command()(command)

app.command(name="eval")(evaluate)


def main() -> None:
    """Entry point: errors become one line on standard error and exit status 1."""
    from cachegen.errors import CacheGenError

    try:
        app()
    except (CacheGenError, ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


__all__ = ["app", "main"]
