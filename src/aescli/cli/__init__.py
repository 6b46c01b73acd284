"""The `aes` program: a table of commands, loaded when they are called, and one place that turns failures into
words.

It knows names and exit codes. What a command does is in its module; nothing heavy is imported here.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from aescli import __version__
from aescli.errors import AesError, UsageError

COMMANDS = {
    "train": ("aescli.cli.train:train", "Train a model on labelled images."),
    "score": ("aescli.cli.score:score", "Score photos: a row per image or face."),
    "ablate": ("aescli.cli.ablate:ablate", "Make a table of the papers: train and test its variants."),
    "eval": ("aescli.cli.eval:evaluate", "Measure how well scores agree with labels."),
    "personalize": ("aescli.cli.personalize:personalize", "Learn one person's taste from a few ratings."),
}
"""name → (module:function, one line for `aes --help`). A command's help is the function's docstring."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class CommandTable(TyperGroup):
    """Lists the commands without importing them and loads one when it is called; see `COMMANDS`."""

    def __init__(self, **attrs: Any):
        super().__init__(**attrs)
        for name, (_, summary) in COMMANDS.items():
            self.add_command(
                TyperCommand(name, help=summary, short_help=summary, rich_markup_mode=None), name
            )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # The reader of our output has seen enough (`| head`). What is still buffered has nowhere to go.
            _silence(sys.stdout)
            raise typer.Exit(0) from None
        except Exception as error:
            if ctx.params.get("debug") or _is_click(error):
                raise
            typer.echo(f"aes: error: {_sentence(error)}", err=True)
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None


def load_command(name: str) -> TyperCommand:
    """The command `name` of `COMMANDS`, built from its function: docstring = help, signature = options."""
    module, _, function = COMMANDS[name][0].partition(":")
    implementation = getattr(importlib.import_module(module), function)
    text, _, examples = (implementation.__doc__ or "").partition("Examples:")
    lines = [line.strip() for line in examples.strip().splitlines() if line.strip()]
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(
        name,
        help=text.strip(),
        short_help=COMMANDS[name][1],
        epilog="\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines) if lines else None,
        context_settings=CONTEXT,
        no_args_is_help=False,
    )(implementation)
    return typer.main.get_command(app)  # type: ignore[return-value]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aes {__version__}")
        raise typer.Exit


def _root(
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of a failure (default: off).", show_default=False),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit (default: off).",
            show_default=False,
            is_eager=True,
            callback=_version,
        ),
    ] = False,
) -> None:
    """Score, evaluate and train models of facial beauty and image aesthetics."""


def build() -> TyperGroup:
    """The whole program as one command object."""
    app = typer.Typer(
        cls=CommandTable,
        add_completion=False,
        rich_markup_mode=None,
        context_settings=CONTEXT,
        no_args_is_help=True,
        epilog=("\b\nExamples:\n  aes score ./photos --out scores.csv\n  aes score --help"),
    )
    app.callback()(_root)
    return typer.main.get_command(app)  # type: ignore[return-value]


def main(args: list[str] | None = None) -> None:
    """Run `aes` and exit: 0 done, 1 could not do its work, 2 wrong usage, 130 Ctrl-C."""
    args = list(sys.argv[1:] if args is None else args)
    end = args.index("--") if "--" in args else len(args)
    if "--debug" in args[:end]:
        # It belongs to the program, but who meets a failure adds it to the end of the line.
        args = ["--debug", *(a for i, a in enumerate(args) if i >= end or a != "--debug")]
    command = build()
    if "_AES_COMPLETE" in os.environ:
        from typer.completion import completion_init

        completion_init()
    try:
        command(args=args, prog_name="aes")
    except KeyboardInterrupt:
        sys.exit(130)


def _sentence(error: Exception) -> str:
    """What is wrong, where, and what to do, in one line."""
    if isinstance(error, AesError):
        return _one_line(str(error))
    if isinstance(error, MemoryError):
        return "not enough memory; use a smaller --batch-size or fewer --workers"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _one_line(f"{where}{error.strerror or error}; check the path and the disk")
    return _one_line(f"{type(error).__name__}: {error}; this is a fault of aes, --debug shows where it arose")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _is_click(error: BaseException) -> bool:
    """typer's own control flow (Exit, Abort, usage errors), whichever copy of click it carries."""
    return any(c.__module__.split(".")[0] in ("click", "typer") for c in type(error).__mro__)


def _silence(stream: Any) -> None:
    with suppress(OSError, ValueError, AttributeError):  # not a real file: a test's stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
