"""The way to a host: how names and paths are spelled, who vouches for it, and what is loaded."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CANARY, Kimi
from server import ReplayServer, completion, stream

from kimi_cli.api.route import Route

STORE = ssl.get_default_verify_paths().openssl_capath
NAME_HASH = "88d0bdcb.0"
"""What openssl x509 -hash says of a subject CN=127.0.0.1."""


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "path"),
    [
        ("https://kimi.example/v1", "kimi.example", 443, "kimi.example", "/v1"),
        ("https://kimi.example:443", "kimi.example", 443, "kimi.example", ""),
        ("http://localhost:80/v1", "localhost", 80, "localhost", "/v1"),
        ("https://kimi.example:8443/a", "kimi.example", 8443, "kimi.example:8443", "/a"),
        ("http://[::1]:8080/v1", "::1", 8080, "[::1]:8080", "/v1"),
        ("https://Kimi.Example", "kimi.example", 443, "kimi.example", ""),
        ("https://bücher.example/v1", "xn--bcher-kva.example", 443, "xn--bcher-kva.example", "/v1"),
        ("https://kimi.example/ä/{x}", "kimi.example", 443, "kimi.example", "/%C3%A4/%7Bx%7D"),
        ("https://kimi.example/a%20b", "kimi.example", 443, "kimi.example", "/a%20b"),
    ],
)
def test_a_url_in_the_letters_of_the_wire(
    url: str, host: str, port: int, authority: str, path: str
) -> None:
    """Names are spelled as name servers know them, paths as request lines can hold them."""
    place = Route(url).locate()
    assert (place.host, place.port, place.authority, place.path) == (host, port, authority, path)
    assert place.is_secure is url.startswith("https")


@pytest.mark.parametrize("name", ["\N{SNOWMAN}\N{COMBINING CEDILLA}..x", "a\N{ZERO WIDTH JOINER}b"])
def test_a_name_that_no_network_can_spell(kimi: Kimi, name: str) -> None:
    """It is a bad URL, in one line."""
    result = kimi("ask", "--base-url", f"https://{name}/v1", "--no-auth", "hi")
    assert (result.stdout, result.status) == (b"", 78)
    assert "bad base URL" in result.error
    assert result.error.count("\n") == 1


def test_whom_the_system_trusts(
    kimi: Kimi, tls_server: ReplayServer, certificate: Callable[..., Path], tmp_path: Path
) -> None:
    """An authority in the system's own store needs no variable, in ask as in batch."""
    probe = ["unshare", "-rm", "true"]
    if shutil.which("unshare") is None or subprocess.run(probe, check=False).returncode:
        pytest.skip("needs unshare, and a kernel that lets us")
    if not Path(STORE).is_dir():
        pytest.skip(f"this system keeps no certificates in {STORE}")
    store, wrapper = tmp_path / "store", tmp_path / "trusting"
    store.mkdir()
    (store / NAME_HASH).write_bytes(certificate().read_bytes())
    inner = f'mount --bind {store} {STORE} && exec "{kimi.program}" "$@"'
    wrapper.write_text(f"#!/bin/sh\nexec unshare -rm sh -c '{inner}' sh \"$@\"\n")
    wrapper.chmod(0o755)
    trusting = replace(kimi.but(env={"KIMI_TOKEN": CANARY}), program=wrapper)
    tls_server.answer(lambda request: stream("Hel", "lo"))
    result = trusting("ask", "--base-url", tls_server.url, "hi")
    assert (result.stdout, result.error, result.status) == (b"Hello\n", "", 0)
    tls_server.answer(lambda request: completion("Hello"))
    result = trusting("batch", "--base-url", tls_server.url, stdin=b'"hi"\n')
    assert result.status == 0, result.error
    result = kimi("ask", "--base-url", tls_server.url, "hi", env={"KIMI_TOKEN": CANARY})
    assert result.status == 69
    assert "SSL_CERT_FILE can name its CA" in result.error


@pytest.mark.parametrize("command", ["ask", "batch"])
def test_what_a_plain_question_does_not_load(
    kimi: Kimi, server: ReplayServer, command: str
) -> None:
    """Requests and urllib3 are for proxies; their import would take longer than all the rest."""
    server.answer(lambda request: stream("x") if command == "ask" else completion("x"))
    arguments = ["hi"] if command == "ask" else []
    run = kimi(
        command,
        *("--base-url", server.url, "--no-auth", *arguments),
        stdin=None if command == "ask" else b'"hi"\n',
        env={"PYTHONPROFILEIMPORTTIME": "1", "NO_PROXY": "localhost"},
    )
    assert run.status == 0
    loaded = {line.rpartition("|")[2].strip() for line in run.error.splitlines() if "|" in line}
    assert "kimi_cli.api.transport" in loaded
    assert not loaded & {"requests", "urllib3", "certifi", "charset_normalizer", "idna"}
