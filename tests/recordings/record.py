"""Record real servers: install them, ask them with kimi, and keep what they send.

    .venv/bin/python tests/recordings/record.py [--folder FOLDER] [HOST | HOST/SCENE]...

The servers are pinned public packages, installed into FOLDER (a temporary one, unless it is
named: then it is used again) and run on loopback ports; nginx and HAProxy are those of the
system. Whatever a server sends to `kimi` is kept byte for byte in HOST/SCENE.http, and
HOST/about.toml says which versions were tried. `tests/scenes.py` has what is asked.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from stand import (
    ADAPTER,
    ENGINE,
    LITELLM,
    MLFLOW,
    NEWEST_ADAPTER,
    PORTKEY,
    Stand,
    find_port,
    read_npm_version,
    read_program_version,
    read_python_version,
    relay,
)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from scenes import SCENES, Scene  # noqa: E402 - it lies beside the tests

TOKEN = "good-token"
WORD = b'"content":"'
"""Stands in every piece of a stream that has text."""
LONG = "Count the words. " * 94
"""About 400 of the model's tokens."""


def main() -> int:
    """Record the scenes that the command line names, or all."""
    parser = argparse.ArgumentParser(description="Record real servers.")
    parser.add_argument("--folder", type=Path, help="install here, and find it again")
    parser.add_argument("names", nargs="*", metavar="HOST[/SCENE]")
    wanted = parser.parse_args()
    scenes = [scene for scene in SCENES if _is_wanted(scene, wanted.names)]
    with ExitStack() as owned:
        folder = wanted.folder or Path(owned.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        hosts = Hosts(Stand(folder.resolve(), owned))
        lost = [scene.name for scene in scenes if not record(scene, hosts)]
        for host in sorted({scene.host for scene in scenes}):
            write_about(host, hosts)
    print(*lost, "not recorded" if lost else "all recorded")
    return 1 if lost else 0


def _is_wanted(scene: Scene, names: list[str]) -> bool:
    return not names or scene.host in names or scene.name in names


# One scene


@dataclass(frozen=True)
class Door:
    """Where a host is asked: its port, and how its requests differ from kimi's own."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)
    withhold: int | None = None
    prepare: Callable[[], object] = lambda: None


def record(scene: Scene, hosts: Hosts) -> bool:
    """Ask, keep what was sent in answer, and print how it ended; tell whether that went well."""
    door: Door = getattr(hosts, scene.host.replace("-", "_"))[scene.door]()
    door.prepare()
    front = relay(hosts.stand, door.port, headers=door.headers, withhold=door.withhold)
    ended = ask(scene, front.port, hosts.stand.folder / "home")
    front.close()
    print(json.dumps([scene.name, ended.returncode, ended.stdout, ended.stderr]), flush=True)
    if len(front.received) != (2 if scene.then else 1):
        return False
    sent = bytes(front.received[0])
    refuse_private(sent, hosts.stand.folder)
    path = HERE / f"{scene.name}.http"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(sent)
    return bool(sent)


def ask(scene: Scene, port: int, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the real program, away from this machine's settings."""
    home.mkdir(exist_ok=True)
    where = ("--base-url", f"http://127.0.0.1:{port}{scene.path}", "--retries", "0")
    return subprocess.run(
        [Path(sys.executable).with_name("kimi"), *scene.arguments, *where],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "KIMI_TOKEN": scene.token},
        timeout=600,
        check=False,
    )


def refuse_private(sent: bytes, folder: Path) -> None:
    """Raise ValueError where a server names this machine, or a folder of it."""
    private = {str(folder), str(Path.home()), str(HERE.parents[1]), socket.gethostname()}
    for word in private - {"/", "localhost"}:
        if re.search(rb"(?<!\w)" + re.escape(word.encode()) + rb"(?!\w)", sent):
            raise ValueError(f"a server names {word}")


def write_about(host: str, hosts: Hosts) -> None:
    """Say beside the recordings what was tried, and when."""
    versions = ", ".join(f'"{version}"' for version in hosts.versions(host))
    today = datetime.datetime.now(datetime.UTC).date()
    (HERE / host / "about.toml").write_text(
        f'origin = "recorded"\npackages = [{versions}]\ndate = {today}\n'
    )


# The hosts


class Hosts:
    """Every host with its doors, started when it is first asked for.

    Behind each gateway and proxy there is the same llama.cpp: a good one, one that dies after a
    few words, and one whose memory another client fills up while it answers.
    """

    def __init__(self, stand: Stand) -> None:
        """Run them in *stand*."""
        self.stand = stand

    # What stands behind them

    @cached_property
    def main(self) -> int:
        """The port of llama.cpp with two slots of a thousand tokens."""
        return self.stand.run_llama(2, 2048, unified=False)[1]

    @cached_property
    def cut(self) -> int:
        """The port of one whose connection breaks after three words."""
        return relay(self.stand, self.main, watch=lambda sent: sent.count(WORD) >= 3).port

    @cached_property
    def tight(self) -> int:
        """The port of one whose two slots share 512 tokens, and meet while it answers."""
        port = self.stand.run_llama(2, 512, unified=True)[1]
        return relay(self.stand, port, watch=Crowd(port)).port

    @cached_property
    def deaf(self) -> int:
        """A port where connections are taken and nothing is ever answered."""
        listener = self.stand.owned.enter_context(socket.create_server(("127.0.0.1", 0)))
        port: int = listener.getsockname()[1]
        return port

    @cached_property
    def rude(self) -> int:
        """A port where each connection ends without a word."""
        return relay(self.stand, self.main, watch=lambda sent: True, silent=True).port

    @cached_property
    def nowhere(self) -> int:
        """A port where nobody listens."""
        return find_port()

    def url(self, name: str) -> str:
        """Return the base URL of what stands behind a gateway under that name."""
        if name in ("page", "limited"):
            return f"http://127.0.0.1:{self.nginx_port}/{name}/v1"
        return f"http://127.0.0.1:{getattr(self, name)}/v1"

    # The hosts: for each door what opens it

    @property
    def llama_cpp(self) -> dict[str, Callable[[], Door]]:
        """Itself; one that is killed in mid-stream."""
        return {
            "": lambda: Door(self.main),
            "crowded": lambda: Door(self.tight),
            "killed": lambda: Door(self._run_mortal()),
        }

    def _run_mortal(self) -> int:
        process, port = self.stand.run_llama(1, 512, unified=False)

        def kill(sent: bytes) -> bool:
            if sent.count(WORD) >= 3:
                process.kill()
            return False

        return relay(self.stand, port, watch=kill).port

    @cached_property
    def nginx_port(self) -> int:
        """The port of nginx: each of its answers has a path of its own."""
        port = find_port()
        self.stand.run_nginx(NGINX.format(port=port, hosts=self), port)
        return port

    @property
    def nginx(self) -> dict[str, Callable[[], Door]]:
        """The pages that it makes itself; the limits are used up before."""
        return {
            "": lambda: Door(self.nginx_port),
            "limited": lambda: Door(self.nginx_port, prepare=self.use_up),
        }

    def use_up(self) -> None:
        """Take the one request a minute that nginx allows."""
        for path in ("limited", "503"):
            with suppress(urllib.error.HTTPError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.nginx_port}/{path}/v1/models")

    @cached_property
    def haproxy_port(self) -> int:
        """The port of HAProxy: each of its answers has a path of its own."""
        port = find_port()
        self.stand.run_haproxy(HAPROXY.format(port=port, hosts=self), port)
        return port

    @property
    def haproxy(self) -> dict[str, Callable[[], Door]]:
        """The pages that it makes itself; a client that stops in the middle of a request."""
        return {
            "": lambda: Door(self.haproxy_port),
            "slow": lambda: Door(self.haproxy_port, withhold=60),
        }

    BEHIND = ("main", "cut", "tight", "nowhere", "page", "limited")

    def _list_models(self) -> dict[str, tuple[str, str]]:
        models = {name: (self.url(name), TOKEN) for name in self.BEHIND}
        return {**models, "refused": (self.url("main"), "bad-token")}

    @cached_property
    def litellm_port(self) -> int:
        """The port of the proxy: what stands behind it is chosen by the model."""
        return self.stand.run_litellm(self._list_models())

    @property
    def litellm(self) -> dict[str, Callable[[], Door]]:
        """The proxy, whose models are what stands behind it."""
        return self._open(lambda: self.litellm_port)

    @cached_property
    def mlflow_port(self) -> int:
        """The port of the gateway: what stands behind it is chosen by the model."""
        return self.stand.run_mlflow(self._list_models())

    @property
    def mlflow(self) -> dict[str, Callable[[], Door]]:
        """The gateway, whose endpoints are what stands behind it."""
        return self._open(lambda: self.mlflow_port)

    def _open(self, find: Callable[[], int]) -> dict[str, Callable[[], Door]]:
        return {
            "": lambda: Door(find()),
            "limited": lambda: Door(find(), prepare=self.use_up),
        }

    @cached_property
    def portkey_port(self) -> int:
        """The port of the gateway with an adapter that streams."""
        return self.stand.run_portkey(ADAPTER)

    @cached_property
    def portkey_today_port(self) -> int:
        """The port of the gateway as npm installs it today."""
        return self.stand.run_portkey(NEWEST_ADAPTER)

    @property
    def portkey(self) -> dict[str, Callable[[], Door]]:
        """The gateway: headers choose what stands behind it."""
        named = {"x-portkey-provider": "openai"}

        def choose(behind: str) -> Door:
            headers = {**named, "x-portkey-custom-host": self.url(behind)}
            prepare = self.use_up if behind == "limited" else lambda: None
            return Door(self.portkey_port, headers, prepare=prepare)

        doors = {name: lambda name=name: choose(name) for name in self.BEHIND}
        return {
            **doors,
            "": doors["main"],
            "unnamed": lambda: Door(self.portkey_port),
            "today": lambda: Door(self.portkey_today_port, choose("main").headers),
        }

    def versions(self, host: str) -> list[str]:
        """Return name and version of what stands in the recordings of a host."""
        stand = self.stand
        engine = read_python_version(stand.folder / "python-llama", ENGINE)
        match host:
            case "nginx" | "haproxy":
                flag = "-v" if host == "haproxy" else "-V"
                return [read_program_version(f"/usr/sbin/{host}", flag), engine]
            case "litellm":
                return [read_python_version(stand.folder / "python-litellm", LITELLM), engine]
            case "mlflow":
                return [read_python_version(stand.folder / "python-mlflow", MLFLOW), engine]
            case "portkey":
                old, new = (
                    stand.folder / f"npm-{adapter[1]}" / "node_modules"
                    for adapter in (ADAPTER, NEWEST_ADAPTER)
                )
                return [
                    read_npm_version(old, PORTKEY),
                    read_npm_version(old, ADAPTER),
                    read_npm_version(new, NEWEST_ADAPTER),
                    engine,
                ]
        return [engine]


class Crowd:
    """Fills up a server's memory once somebody else's answer from it has begun."""

    def __init__(self, port: int) -> None:
        """Ask at that port."""
        self._port = port
        self._asked: set[bytes] = set()

    def __call__(self, sent: bytes) -> bool:
        """Ask for a long answer when the first word of another has come; end nothing."""
        head = sent[:400]
        if WORD in sent and head not in self._asked:
            self._asked.add(head)
            threading.Thread(target=self._ask, daemon=True).start()
        return False

    def _ask(self) -> None:
        body = {"messages": [{"role": "user", "content": LONG}], "stream": True}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        with suppress(OSError), urllib.request.urlopen(request) as reply:
            reply.read()


NGINX = """
limit_req_zone $server_name zone=few:1m rate=1r/m;
limit_req_zone $server_name zone=many:1m rate=1r/m;
server {{
  listen 127.0.0.1:{port};
  server_name localhost;
  location /v1/ {{ proxy_pass http://127.0.0.1:{hosts.main}; }}
  location /cut/ {{ proxy_pass http://127.0.0.1:{hosts.cut}/; }}
  location /page/ {{ proxy_pass http://127.0.0.1:{hosts.nowhere}; }}
  location /504/ {{ proxy_pass http://127.0.0.1:{hosts.deaf}; proxy_read_timeout 1s; }}
  location /413/ {{ proxy_pass http://127.0.0.1:{hosts.main}/; client_max_body_size 50; }}
  location /401/ {{ auth_basic hello; auth_basic_user_file /dev/null; }}
  location /403/ {{ deny all; }}
  location /404/ {{ return 404; }}
  location /301/ {{ return 301 https://localhost$request_uri; }}
  location /503/ {{ limit_req zone=many; proxy_pass http://127.0.0.1:{hosts.main}/; }}
  location /limited/ {{
    limit_req zone=few;
    limit_req_status 429;
    add_header Retry-After 7 always;
    proxy_pass http://127.0.0.1:{hosts.main}/;
  }}
}}
"""

HAPROXY = """
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  timeout http-request 1s
  option http-buffer-request
frontend front
  bind 127.0.0.1:{port}
  http-request deny deny_status 413 if {{ path_beg /413/ }} {{ req.body_size gt 50 }}
  http-request deny deny_status 429 if {{ path_beg /429/ }}
  use_backend %[path,field(2,/)] if {{ path_beg /cut/ /503/ /504/ /502/ }}
  default_backend main
backend main
  server one 127.0.0.1:{hosts.main}
backend cut
  http-request replace-path /cut/(.*) /\\1
  server one 127.0.0.1:{hosts.cut}
backend 502
  server one 127.0.0.1:{hosts.rude}
backend 503
  server one 127.0.0.1:{hosts.nowhere}
backend 504
  timeout server 1s
  server one 127.0.0.1:{hosts.deaf}
"""


if __name__ == "__main__":
    sys.exit(main())
