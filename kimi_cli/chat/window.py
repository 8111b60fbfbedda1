"""How many tokens the model of a chat reads: what its host says beats what is documented."""

from __future__ import annotations

from kimi_cli.api.client import Client
from kimi_cli.errors import KimiError
from kimi_cli.turn.terms import Terms


class Window:
    """Knows the window of each model that was asked for, once its host has told."""

    def __init__(self, client: Client) -> None:
        """Ask through *client*, and nothing yet."""
        self._client = client
        self._told: dict[str, int | None] = {}

    def find(self, terms: Terms) -> int | None:
        """Return the window as far as it is known now; nobody is asked."""
        return self._told.get(terms.model) or terms.find_window()

    def ask(self, terms: Terms) -> int | None:
        """Return the window, of a host that lists its models by its own words.

        Raises Terminated when a person does not want to wait.
        """
        settings = terms.settings
        if not (settings.is_documented or settings.needs_engine or terms.model in self._told):
            self._told[terms.model] = self._fetch(terms.model)
        return self.find(terms)

    def _fetch(self, name: str) -> int | None:
        try:
            models = self._client.list_models()
        except KimiError:
            return None  # many hosts have no list, and the chat needs none
        named = [model for model in models if model.id == name]
        if not named and len(models) == 1:
            named = models  # a server of one model, which answers to any name
        return named[0].context if named else None
