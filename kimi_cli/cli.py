"""The group of commands, and the one border from exception to exit status."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from kimi_cli import __version__
from kimi_cli.errors import (
    ExitStatus,
    KimiError,
    OutputClosed,
    OutputFailed,
    Terminated,
)
from kimi_cli.system.signals import catch_signals, die_by, forbid_dumps
from kimi_cli.system.terminal import Terminal

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS = {
    "ask": "Ask one question and print the answer.",
    "chat": "Talk: ask, read the answer, ask on.",
    "batch": "Answer every prompt of FILE (JSON Lines), or of standard input.",
    "log": "List, show, search and remove conversations.",
    "template": "List, show, edit and save templates of prompts.",
    "models": "List the models of the host, the default marked with '*'.",
    "auth": "Keep, show and forget bearer tokens.",
    "schema": "Print the JSON Schema that NOTATION stands for.",
    "help": "Explain a command or a topic.",
}
"""The name of each command and its line in ``kimi --help``, so that no command is loaded for it."""

_NARROWEST, _WIDEST = 50, 100
"""Columns that help may fill; click would load shutil to find out."""

EPILOG = """\b
Examples:
  kimi ask "What is a pipe?"
  git diff | kimi ask "Write a commit message"
  kimi chat
  kimi auth login

See kimi(1), and 'kimi help exit-status' for what $? means.
"""


_NEAR = r"\. \(?Did you mean(?: one of)?:? (.*)\?\)?$"
"""How click ends a message about a slip of the pen."""


class LazyGroup(click.Group):
    """Loads a command's module when the command is called, and not for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of that name and return its command."""
        if cmd_name not in COMMANDS:
            return None
        gc.disable()  # what is loaded stays; looking for garbage in it delays the start
        try:
            module = importlib.import_module(f"kimi_cli.commands.{cmd_name}")
        finally:
            gc.freeze()
            gc.enable()
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; where there is none, name those of the table that are like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the commands of the table above, without loading them, and our own options."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - for completion only

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        items = [CompletionItem(name, help=COMMANDS[name]) for name in names]
        return items + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="kimi", message="%(prog)s %(version)s")
def cli() -> None:
    """Answers from Kimi in the shell: for a pipeline, from cron, or for one quick question."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and end the process with the right exit status or signal."""
    terminal = Terminal(os.environ)
    try:
        forbid_dumps()
        catch_signals()
        status = _run(arguments, terminal)
    except Terminated as ending:
        die_by(ending.signum)
    except OutputClosed:
        _discard_stdout()
        die_by(signal.SIGPIPE)
    _leave(status)


def _leave(status: int) -> NoReturn:
    """End the process without taking the interpreter apart: everything is written and closed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)


def _run(arguments: Sequence[str] | None, terminal: Terminal) -> int:
    """Return the exit status; every failure is told in one line on stderr."""
    stdout = sys.stdout
    try:
        _plug_closed_descriptors()
        if stdout is None:
            raise OutputFailed("standard output is closed")
        _prepare_completion()
        status = cli.main(
            arguments,
            prog_name="kimi",
            standalone_mode=False,
            obj=terminal,
            terminal_width=max(_NARROWEST, min(terminal.find_columns(), _WIDEST) - 2),
        )
        _close_stdout()
        return status if isinstance(status, int) else ExitStatus.OK
    except click.exceptions.NoArgsIsHelpError as error:
        terminal.write_err(error.format_message() + "\n")
        return ExitStatus.USAGE
    except click.ClickException as error:
        terminal.complain(_explain_usage(error))
        return error.exit_code
    except KimiError as error:
        terminal.complain(str(error))
        return error.status
    except OSError as error:
        _discard_stdout()
        terminal.complain(f"input or output failed: {error}")
        return ExitStatus.IO
    except SystemExit as ending:
        if sys.stdout is not stdout:
            # click has printed help into a closed pipe, and put a wrapper in its place.
            raise OutputClosed from ending
        raise
    except Exception as error:  # noqa: BLE001 - the last border: a person sees no traceback
        return _report_bug(error, terminal)


def _prepare_completion() -> None:
    """Complete in fish by our own script, where a shell asks."""
    if os.environ.get("_KIMI_COMPLETE", "").startswith("fish"):
        from kimi_cli.options.fish import register  # noqa: PLC0415 - for completion only

        register()


def _explain_usage(error: click.ClickException) -> str:
    """Make one line of what click says, with the way to more."""
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    message = re.sub(_NEAR, r"; did you mean \1", message)
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    slip = isinstance(error, click.NoSuchOption) and not error.possibilities
    if slip and _takes_words(context.command):
        message += "; what begins with '-' and is no option goes behind '--'"
    usage = context.command.get_usage(context).removeprefix("Usage: ")
    return f"{message}; usage: {usage}; see '{context.command_path} --help'"


def _takes_words(command: click.Command) -> bool:
    return any(isinstance(item, click.Argument) and item.nargs < 0 for item in command.params)


def _report_bug(error: Exception, terminal: Terminal) -> ExitStatus:
    """Say that it is our fault; the trace goes into a file, and only when one was asked for."""
    line = f"a bug in kimi: {type(error).__name__}: {error}"
    if path := os.environ.get("KIMI_DEBUG"):
        try:
            terminal.save_trace(path, error)
            where = f"the trace is in {path}"
        except OSError as failure:
            where = f"the trace cannot be written to {path}: {failure.strerror}"
        terminal.complain(f"{line}; {where}")
    else:
        terminal.complain(f"{line}; set KIMI_DEBUG=FILE to keep a trace of it")
    return ExitStatus.SOFTWARE


def _plug_closed_descriptors() -> None:
    """Keep a closed descriptor 0, 1 or 2 from becoming a socket that answers are written into."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return


def _close_stdout() -> None:
    """See a late write error (a full quota, NFS) here, and not as exit 120."""
    sys.stdout.flush()
    os.close(os.dup(sys.stdout.fileno()))


def _discard_stdout() -> None:
    """Give what is left in Python's own buffer somewhere to go at exit."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
