"""A real Secret Service on session buses of our own, in every state that a user may meet."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

if sys.platform == "linux":
    from jeepney import MatchRule, message_bus  # type: ignore[import-untyped]
    from jeepney.io.blocking import (  # type: ignore[import-untyped]
        DBusConnection,
        open_dbus_connection,
    )


class SecretService:
    """Session buses of our own, one for each state in which a user may find the keyring.

    Each property is the variables that lead a program to it.
    """

    def __init__(self, folder: Path, owned: ExitStack) -> None:
        self._folder = folder
        self._owned = owned

    @cached_property
    def unlocked(self) -> dict[str, str]:
        """A keyring that stores and gives."""
        bus = self._start_bus("unlocked")
        self._start_keyring("unlocked", bus, password=b"open sesame")
        return bus

    @cached_property
    def locked(self) -> dict[str, str]:
        """A locked keyring, and nobody to ask for its password."""
        return self._start_locked("locked")

    @cached_property
    def prompting(self) -> dict[str, str]:
        """A locked keyring that asks for its password and waits for ever."""
        bus = self._start_locked("prompting")
        connection = self._connect(bus)
        request = message_bus.RequestName("org.gnome.keyring.SystemPrompter")
        connection.send_and_get_reply(request)
        return bus

    @cached_property
    def absent(self) -> dict[str, str]:
        """A session bus without a Secret Service."""
        return self._start_bus("absent")

    @cached_property
    def silent(self) -> dict[str, str]:
        """A session bus that accepts and never says a word."""
        path = self._folder / "silent"
        listener = self._owned.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen()
        return {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={path}"}

    def lookup(self, username: str, service: str = "kimi") -> str | None:
        """What `secret-tool` finds in the unlocked keyring."""
        found = self._secret_tool("lookup", "service", service, "username", username)
        return found.stdout.decode() if found.returncode == 0 else None

    def clear(self, service: str = "kimi") -> None:
        """Forget whatever the unlocked keyring holds for the service."""
        self._secret_tool("clear", "service", service)

    def _secret_tool(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["secret-tool", *arguments],
            env={**os.environ, **self.unlocked},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
        )

    def _start_locked(self, name: str) -> dict[str, str]:
        bus = self._start_bus(name)
        _end(self._start_keyring(name, bus, password=b"open sesame"))
        self._start_keyring(name, bus, password=None)
        return bus

    def _start_bus(self, name: str) -> dict[str, str]:
        """A bus that starts no services by itself."""
        configuration = self._folder / f"{name}.conf"
        configuration.write_text(BUS.format(path=self._folder / name))
        command = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address"]
        process = self._start(command, os.environ)
        assert process.stdout
        return {"DBUS_SESSION_BUS_ADDRESS": process.stdout.readline().decode().strip()}

    def _start_keyring(
        self, name: str, bus: dict[str, str], password: bytes | None
    ) -> subprocess.Popen[bytes]:
        folder = self._folder / f"{name}-data"
        folder.mkdir(mode=0o700, exist_ok=True)
        places = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"), str(folder))
        command = ["gnome-keyring-daemon", "--foreground", "--components=secrets"]
        if password is not None:
            command.append("--unlock")
        process = self._start(command, {"PATH": os.environ["PATH"], **places, **bus})
        assert process.stdin
        process.stdin.write(password or b"")
        process.stdin.close()
        self._await_name("org.freedesktop.secrets", bus)
        return process

    def _start(self, command: list[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._owned.callback(_end, process)
        return process

    def _connect(self, bus: dict[str, str]) -> DBusConnection:
        address = bus["DBUS_SESSION_BUS_ADDRESS"]
        return self._owned.enter_context(open_dbus_connection(address))

    def _await_name(self, name: str, bus: dict[str, str]) -> None:
        """Wait until a program has taken the name on the bus."""
        connection = self._connect(bus)
        change = MatchRule(type="signal", member="NameOwnerChanged", path=message_bus.object_path)
        change.add_arg_condition(0, name)
        with connection.filter(change) as changes:
            connection.send_and_get_reply(message_bus.AddMatch(change))
            if not connection.send_and_get_reply(message_bus.NameHasOwner(name)).body[0]:
                connection.recv_until_filtered(changes, timeout=10)


BUS = """\
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe
        pipe.close()


KEYRING_TOOLS = ("dbus-daemon", "gnome-keyring-daemon", "secret-tool")
