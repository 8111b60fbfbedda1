"""Completion in fish with whole descriptions, whatever version of click is installed.

click's own script splits what it is given at every comma, those of a description included, and in
click 8.4.0 and 8.4.1 at the letter n.
"""

from __future__ import annotations

from typing import Any

from click.shell_completion import CompletionItem, FishComplete, add_completion_class

_SCRIPT = r"""function %(complete_func)s;
    set -l response (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) \
COMP_CWORD=(commandline -t) %(prog_name)s);

    for completion in $response;
        set -l metadata (string split --max 1 "," $completion);

        if test $metadata[1] = "dir";
            __fish_complete_directories $metadata[2];
        else if test $metadata[1] = "file";
            __fish_complete_path $metadata[2];
        else if test $metadata[1] = "plain";
            echo $metadata[2];
        end;
    end;
end;

complete --no-files --command %(prog_name)s --arguments \
"(%(complete_func)s)";
"""


class WholeFishComplete(FishComplete):
    """A line for each completion: ``type,word``, and after a tab what the word means."""

    source_template = _SCRIPT

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return the line of one completion."""
        meaning = " ".join((item.help or "").split())
        return f"{item.type},{item.value}" + (f"\t{meaning}" if meaning else "")


def register() -> None:
    """Put this class in the place of click's."""
    add_completion_class(WholeFishComplete, "fish")
