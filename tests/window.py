"""A program in a window of a real tmux."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path


class Tmux:
    """A program in a window of a tmux server of our own."""

    def __init__(self, command: str, env: dict[str, str], folder: Path) -> None:
        """Run *command* in a shell of 80 columns and 24 rows."""
        self._socket = str(folder / "tmux")
        self._env = env
        self._call("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", command)

    def __enter__(self) -> Tmux:
        """Return this window."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the server."""
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], check=False)

    def press(self, *keys: str) -> None:
        """Press keys by their tmux names; other words are typed."""
        self._call("send-keys", *keys)

    def paste(self, text: str) -> None:
        """Paste *text* as a terminal does: marked as such if the program has asked for that."""
        self._call("set-buffer", text)
        self._call("paste-buffer", "-p")

    def resize(self, columns: int) -> None:
        """Make the window narrower or wider."""
        self._call("resize-window", "-x", str(columns), "-y", "24")

    def see(self, text: str) -> None:
        """Wait until *text* is on the screen."""
        ends = time.monotonic() + 20
        while text not in (shown := self._call("capture-pane", "-p")):
            assert time.monotonic() < ends, shown
            time.sleep(0.05)

    def find_cursor(self) -> tuple[int, str]:
        """Return the column of the cursor, from 0, and the line that it is in."""
        column, row = self._call("display-message", "-p", "#{cursor_x} #{cursor_y}").split()
        return int(column), self._call("capture-pane", "-p").split("\n")[int(row)]

    def _call(self, *words: str) -> str:
        command = ["tmux", "-S", self._socket, "-u", *words]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, check=True)
        return done.stdout
