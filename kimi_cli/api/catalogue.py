"""The documented models of the gateway, which has no models endpoint.

Facts from the gateway's guide and documents (docs.acedata.cloud) and from Moonshot's page on its
models (platform.kimi.ai/docs/api/models-overview), as of the date below. Moonshot ends its K2
series in December 2026, and accounts registered after 31 October 2026 cannot use it. The list is
shown, never enforced: any name passes.
"""

from __future__ import annotations

from dataclasses import dataclass

AS_OF = "2026-10-26"


@dataclass(frozen=True)
class Model:
    """One model; None where it is not known. *context* counts text tokens."""

    id: str
    context: int | None = None
    thinks: str | None = None
    images: bool | None = None
    note: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the object of ``kimi models --json``."""
        return {
            "id": self.id,
            "context": self.context,
            "thinks": self.thinks,
            "images": self.images,
            "note": self.note,
        }


_WANT_REASONING = ("kimi-k3", "kimi-k2.7-code")


def find_model(name: str) -> Model | None:
    """Return what is documented of the model of that name."""
    return next((model for model in DOCUMENTED if model.id == name), None)


def is_blind(name: str) -> bool:
    """Tell whether the model is documented to see no images."""
    known = find_model(name.rpartition("/")[2])
    return known is not None and known.images is False


def tell_blindness(name: str) -> str:
    """Return the warning of images that are sent to a model which sees none."""
    return f"{name} is known to see no images; choose another with -m (see kimi models)"


def wants_reasoning(name: str) -> bool:
    """Tell whether the model must be sent its earlier reasoning back.

    Those that keep it from turn to turn ask for the complete assistant message
    (platform.kimi.ai/docs/guide/use-thinking-models); all others ignore it, and its bytes are
    uploaded for nothing.
    """
    return name.rpartition("/")[2].startswith(_WANT_REASONING)


_FIRST = "of the guide's first seven; no longer listed"
_CODE = "at Moonshot only, until 2026-12"

DOCUMENTED = (
    Model("kimi-k3", 1_048_576, "always", True, "131,072 tokens of output by default"),
    Model("kimi-k3.1-pro", 1_048_576, "always", True, "newest, since 2026-10-24"),
    Model("kimi-k3.1-pro-highspeed", 1_048_576, "always", True, "at Moonshot, since 2026-10-24"),
    Model("kimi-k2.6", 262_144, "can be disabled", True, "at Moonshot until 2026-12"),
    Model("kimi-k2.5", 262_144, "can be disabled", True, "the guide's; left Moonshot 2026-08-31"),
    Model("kimi-k2-thinking", 262_144, "always", False, "left Moonshot 2026-05-25"),
    Model("kimi-k2-thinking-turbo", 262_144, "always", False, "left Moonshot 2026-05-25"),
    Model("kimi-k2-instruct-0905", 262_144, "no", False, _FIRST),
    Model("kimi-k2-0905-preview", 262_144, "no", False, _FIRST),
    Model("kimi-k2-turbo-preview", 262_144, "no", False, _FIRST),
    Model("kimi-k2-0711-preview", 131_072, "no", False, _FIRST),
    Model("kimi-k2.7-code", 262_144, "always", True, _CODE),
    Model("kimi-k2.7-code-highspeed", 262_144, "always", True, _CODE),
)
