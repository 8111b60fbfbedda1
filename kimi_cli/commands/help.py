"""``kimi help``: a command's help, or a topic that no command owns."""

from __future__ import annotations

import click

from kimi_cli.errors import ExitStatus
from kimi_cli.options.bundles import pass_terminal
from kimi_cli.system.terminal import Terminal

EPILOG = """\b
Examples:
  kimi help ask
  kimi help auth login
  kimi help exit-status
"""


@click.command(epilog=EPILOG)
@click.argument("topic", nargs=-1)
@pass_terminal
@click.pass_context
def help(ctx: click.Context, terminal: Terminal, *, topic: tuple[str, ...]) -> None:
    """Explain a command or a topic.

    The topic 'exit-status' tells what $? means after kimi.
    """
    if topic == ("exit-status",):
        terminal.write(format_exit_statuses())
        return
    parent = ctx.parent
    assert parent is not None  # noqa: S101 - a command of a group has one
    context = parent
    for name in topic:
        group = context.command
        command = group.get_command(context, name) if isinstance(group, click.Group) else None
        if command is None:
            near = _find_near(name, context)
            raise click.UsageError(f"there is no help on '{' '.join(topic)}'{near}")
        context = click.Context(command, info_name=name, parent=context)
    terminal.write(context.get_help() + "\n")


def _find_near(name: str, context: click.Context) -> str:
    """Return what the topic *name* may stand for, as the end of a message."""
    import difflib  # noqa: PLC0415 - for a slip only

    group = context.command
    topics = group.list_commands(context) if isinstance(group, click.Group) else []
    near = difflib.get_close_matches(name, [*topics, "exit-status"], n=1)
    return f"; did you mean '{near[0]}'" if near else ""


def format_exit_statuses() -> str:
    """Return one line a status, and what a script does with them."""
    lines = [f"{status.value:>5}  {status.meaning}" for status in ExitStatus]
    lines += [
        "128+n  ended by signal n (130 for ^C, 141 for a reader that left)",
        "",
        "case $? in 0) ;; 75) echo try again later ;; *) echo tell a human ;; esac",
    ]
    return "\n".join(lines) + "\n"
