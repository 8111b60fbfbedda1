"""What is typed, drawn so that every terminal agrees how wide it is.

Some draw a family of four as one picture, others as four beside each other, and neither tells: the
line would shift by what the editor did not expect. So the letters that only join or vary others
are not drawn while a line is edited; what is sent has them.
"""

from __future__ import annotations

import re
from itertools import accumulate

from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.formatted_text.utils import fragment_list_to_text
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.layout.utils import explode_text_fragments

_EMOJI = "[\u203c-\u3299\U0001f000-\U0001faff]"
_JOINING = re.compile(
    "(?<=[\u00a9\u00ae\u2000-\u33ff\U0001f000-\U0001faff\ufe0f])\u200d"  # one picture of several
    "|[\ufe00-\ufe0f\U000e0100-\U000e01ef]"  # variation selectors
    f"|(?<={_EMOJI})[\U0001f3fb-\U0001f3ff]"  # colours of skin
    "|[\U000e0020-\U000e007f]"  # tags: the flags of Scotland and Texas
)
_FLAG, _LETTER = 0x1F1E6, ord("A")
_FLAGS = {_FLAG + place: chr(_LETTER + place) for place in range(26)}
"""Two of them are a flag, which is as wide as one, two or four columns: drawn as letters."""


class Narrow(Processor):
    """Leaves out of each line what terminals disagree about."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        """Return the line to draw, and how its columns belong to those of the text."""
        fragments = transformation_input.fragments
        text = fragment_list_to_text(fragments)
        joining = {match.start() for match in _JOINING.finditer(text)}
        if not joining and text.translate(_FLAGS) == text:
            return Transformation(fragments)
        letters = explode_text_fragments(fragments)
        kept = [place for place in range(len(letters)) if place not in joining]
        drawn: StyleAndTextTuples = [
            (letters[place][0], letters[place][1].translate(_FLAGS)) for place in kept
        ]
        columns = [0, *accumulate(place not in joining for place in range(len(letters)))]
        places = [*kept, len(letters)]
        return Transformation(
            drawn,
            source_to_display=lambda place: _pick(columns, place),
            display_to_source=lambda column: _pick(places, column),
        )


def _pick(table: list[int], index: int) -> int:
    """Return what *table* has at *index*, or as far behind its end as that."""
    last = len(table) - 1
    return table[index] if index <= last else table[last] + index - last
