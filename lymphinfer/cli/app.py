"""The root command: one file a sub-command, loaded when it is called."""

from __future__ import annotations

import gc
import logging
import os
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from lymphinfer import __version__
from lymphinfer.cli import cohort, gate, orion, weights
from lymphinfer.cli.doctor import doctor
from lymphinfer.cli.evaluate import evaluate
from lymphinfer.cli.experiments import patch_size_study, table1
from lymphinfer.cli.export import export
from lymphinfer.cli.info import info
from lymphinfer.cli.predict import predict
from lymphinfer.cli.regions import regions
from lymphinfer.cli.report import report
from lymphinfer.cli.retrain import retrain
from lymphinfer.cli.simulate import simulate
from lymphinfer.cli.status import status
from lymphinfer.cli.streams import guard_streams
from lymphinfer.cli.suggest import suggest
from lymphinfer.cli.teach import teach
from lymphinfer.cli.train_detector import train_detector
from lymphinfer.cli.typed import RememberingGroup
from lymphinfer.errors import NO_MEMORY, LymphinferError, is_memory_short
from lymphinfer.extras import fix_of
from lymphinfer.textfiles import shown

MANY_OBJECTS = 50_000
"""Objects that are made before those that nobody can reach are looked for; Python's 700 is small
for a program that loads thousands."""

app = typer.Typer(
    name="lymphinfer",
    cls=RememberingGroup,
    help="Lymphocyte markers from plain H&E slides. Research use only, not for diagnosis.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(predict)
app.command()(info)
app.command()(status)
app.command()(doctor)
app.command()(export)
app.command()(report)
app.command()(regions)
for command in (
    simulate,
    suggest,
    teach,
    retrain,
    train_detector,
    evaluate,
    table1,
    patch_size_study,
):
    app.command()(command)
app.add_typer(orion.app, name="orion")
app.add_typer(cohort.app, name="cohort")
app.add_typer(gate.app, name="gate")
app.add_typer(weights.app, name="weights")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"lymphinfer {__version__}")
        raise typer.Exit


@app.callback()
def root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Lymphocyte markers from plain H&E slides. Research use only, not for diagnosis."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )


def main() -> None:
    """Entry point. Exit codes: 0 all done, 1 some slides failed, 2 nothing could be done."""
    guard_streams()
    # What is made at the start stays: looking through it again and again is time for nothing.
    gc.set_threshold(MANY_OBJECTS)
    try:
        app()
    except LymphinferError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {_escaped(str(error))}", soft_wrap=True)
        _leave(2)
    except (MemoryError, RuntimeError, OSError, ImportError) as error:
        if isinstance(error, ModuleNotFoundError) and (fix := fix_of(str(error.name))):
            Console(stderr=True).print(f"[bold red]Error:[/] {_escaped(fix)}", soft_wrap=True)
            _leave(2)
        if not is_memory_short(error):
            raise
        text = f"{NO_MEMORY}. -v shows where it ended"
        logging.getLogger(__name__).info("not enough memory", exc_info=error)
        Console(stderr=True).print(f"[bold red]Error:[/] {text}", soft_wrap=True)
        _leave(2)
    except KeyboardInterrupt:
        Console(stderr=True).print(
            "Interrupted. Finished parts are kept: the same command goes on from there."
        )
        _leave(130)


def _leave(code: int) -> None:
    """End with an exit code, also where a thread hangs in a reader that nothing can end."""
    here = sys.modules.get("lymphinfer.batch.places.here")
    if here is not None and here.is_stuck():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape("\n".join(shown(line) for line in text.split("\n")))
