"""Images as parts of a prompt: data URIs, whose type is that of the bytes.

The types are those that Moonshot's guide on images lists (platform.kimi.ai/docs/guide,
use-kimi-vision-model), which takes no other addresses than data URIs.
"""

from __future__ import annotations

import base64

from kimi_cli.api.messages import JSON
from kimi_cli.errors import BadInput
from kimi_cli.prompt.kinds import LONGEST, find_kind

_TYPES = "JPEG, PNG, GIF, WebP, BMP, HEIC or HEIF"


def make_image(data: bytes, name: str) -> JSON:
    """Return the part of a message that holds the image *data*, from the file called *name*.

    Raises BadInput for what is no image that models read.
    """
    kind = find_kind(data[:LONGEST])
    if kind is None or kind.media_type is None:
        raise BadInput(f"{name} {_explain(data, name)}")
    encoded = base64.b64encode(data).decode("ascii")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:{kind.media_type};base64,{encoded}"},
    }


def _explain(data: bytes, name: str) -> str:
    """Say what else it is, and what would help."""
    if not data:
        return "is empty"
    beginning = data[:LONGEST]
    if (kind := find_kind(beginning)) is not None:
        if kind.is_pdf:
            return "is a PDF, no image; make images of its pages: pdftoppm -png"
        return f"is {kind.name}; {kind.advise(name)}"
    if b"<svg" in beginning:
        return "is SVG, which is text; attach it with --file, or draw it: rsvg-convert -o new.png"
    text = beginning.decode("utf-8", "ignore")
    if "\0" not in text and len(text.encode()) > len(beginning) - 4:
        return "is text; attach it with --file"
    return f"begins like no image that models read; make {_TYPES} of it"
