"""``kimi models``: what can be asked."""

from __future__ import annotations

import click

from kimi_cli.host import load_settings, open_client
from kimi_cli.options.bundles import (
    ConnectionOptions,
    HostOptions,
    connection_options,
    host_options,
    verbosity_options,
)
from kimi_cli.system.terminal import Terminal

EPILOG = """\b
Examples:
  kimi models
  kimi models --profile moonshot -q | fzf
  kimi models --json | jq -r 'select(.images) | .id'
"""


@click.command(epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@host_options
@connection_options
@verbosity_options
def models(
    terminal: Terminal, *, host: HostOptions, connection: ConnectionOptions, as_json: bool
) -> None:
    """List the models of the host, the default marked with '*'.

    A host with a models endpoint is asked; for the gateway, which has none, the documented list is
    shown. With -q only the names are printed.
    """
    from kimi_cli.api.catalogue import AS_OF, DOCUMENTED  # noqa: PLC0415 - its help lists no models
    from kimi_cli.show.listing import dump_models, format_models  # noqa: PLC0415 - its help lists no models

    settings = load_settings(terminal, host, connection)
    if settings.is_documented:
        found, as_of = list(DOCUMENTED), AS_OF
        terminal.warn(f"documented models as of {AS_OF}; this host has no list of its own")
    else:
        as_of = None
        with open_client(terminal, settings, connection) as client:
            found = client.list_models()
    if as_json:
        terminal.show(dump_models(found, default=settings.model, as_of=as_of))
    elif terminal.quiet:
        terminal.show("".join(f"{model.id}\n" for model in found))
    else:
        width = terminal.find_columns() if terminal.out_is_terminal else None
        terminal.show(format_models(found, default=settings.model, width=width))
