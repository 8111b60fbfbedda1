"""What a shell offers in the place of an option's value; nothing here waits for a network."""

from __future__ import annotations

import os

import click

from kimi_cli.errors import ConfigError, KimiError
from kimi_cli.settings.configfile import ConfigFile, find_config_path, read_config


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Offer the documented models; a shell completion must not wait for a network."""
    from kimi_cli.api.catalogue import DOCUMENTED  # noqa: PLC0415 - for completion only

    return [model.id for model in DOCUMENTED if model.id.startswith(incomplete)]


def complete_profiles(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Offer the built-in profiles and those of the configuration file."""
    from kimi_cli.settings.precedence import list_profiles  # noqa: PLC0415 - for completion only

    path = find_config_path(os.environ)
    try:
        config = read_config(path)
    except ConfigError:
        # The next command tells what is wrong; here it would only mess up the command line.
        config = ConfigFile(path)
    profiles = list_profiles(config)
    return [name for name in profiles if name.startswith(incomplete)]


def complete_templates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Offer the templates that there are."""
    from kimi_cli.prompt import templatefile  # noqa: PLC0415 - for completion only

    names = templatefile.list_names(templatefile.find_templates(os.environ))
    return [name for name in names if name.startswith(incomplete)]


def complete_sessions(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Offer the conversations that there are."""
    from kimi_cli.conversation.archive import LATEST, open_archive  # noqa: PLC0415 - for completion only

    try:
        names = open_archive(os.environ).list_names()
    except KimiError:
        return []
    return [name for name in names if name.startswith(incomplete) and name != LATEST]
