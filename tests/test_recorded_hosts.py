"""Real servers, gateways and proxies: what each was recorded to send, and how kimi ends."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from conftest import CANARY
from program import Kimi
from scenes import SCENES, Scene
from server import RECORDINGS, ReplayServer

PAGE = Path(__file__).parents[1] / "man" / "kimi-hosts.7"
HOSTS = sorted({scene.host for scene in SCENES})


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_what_a_real_host_sent(scene: Scene, kimi: Kimi, server: ReplayServer) -> None:
    """Each byte as it came: the exit status, the output and the message are these."""
    server.script(*scene.replay())
    where = ("--base-url", server.url, "--retries", "0")
    ended = kimi(*scene.arguments, *where, env={"KIMI_TOKEN": CANARY})
    found = (ended.status, ended.stdout.decode(), ended.error)
    assert found == (scene.status, scene.stdout, scene.stderr)
    assert len(server.requests) == (2 if scene.then else 1)


def test_every_recording_is_replayed() -> None:
    """No file lies about that no test reads, and no two have one name."""
    kept = {path for host in HOSTS for path in (RECORDINGS / host).glob("*.http")}
    assert kept == {scene.file for scene in SCENES}
    assert len(SCENES) == len(kept)
    folders = {path.name for path in RECORDINGS.iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == set(HOSTS)


@pytest.mark.parametrize("host", HOSTS)
def test_the_page_says_what_was_tried(host: str) -> None:
    """kimi-hosts(7) has name and version of whatever sent the recordings."""
    about = tomllib.loads((RECORDINGS / host / "about.toml").read_text())
    assert about["origin"] == "recorded"
    rows = re.sub(r"\\", "", PAGE.read_text())
    for package in about["packages"]:
        name, version = package.split(" ")
        assert f".It {name} Ta {version} Ta " in rows, package


@pytest.mark.parametrize("host", HOSTS)
def test_recordings_hold_nothing_private(host: str) -> None:
    """They name no folder and no machine but the loopback one."""
    for path in (RECORDINGS / host).glob("*.http"):
        sent = path.read_bytes()
        assert not re.search(rb"/(?:home|root|tmp|usr/lib|var)/", sent), path.name
        assert len(sent) < 20_000, path.name
