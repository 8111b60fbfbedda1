"""Tokens in a file: none is lost, whoever writes at the same time and whatever the disk says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from faults import fail_calls, limit_files
from program import Kimi, Result


@pytest.fixture
def tokens(home: Path) -> Path:
    """The file."""
    return home / ".config/kimi/tokens.json"


@pytest.fixture
def login(kimi: Kimi) -> Kimi:
    """The command that keeps a token in the file."""
    return kimi.but("auth", "login", "--no-verify", "--insecure-storage")


def log_in(login: Kimi, number: int, token: str | None = None) -> Result:
    """Keep a token for one host of many."""
    url = f"http://127.0.0.1:{number}"
    return login("--base-url", url, stdin=f"{token or f'token-{number}'}\n".encode())


def test_ten_logins_at_once_keep_ten_tokens(login: Kimi, tokens: Path) -> None:
    """T1: reading, changing and replacing are one step."""
    numbers = range(1001, 1011)
    runs = [
        login.start("--base-url", f"http://127.0.0.1:{n}", stdin=f"token-{n}\n".encode())
        for n in numbers
    ]
    assert [run.wait().status for run in runs] == [0] * 10
    kept = json.loads(tokens.read_text())
    assert kept == {f"http://127.0.0.1:{number}": f"token-{number}" for number in numbers}


def test_a_link_stays_a_link(login: Kimi, tokens: Path, tmp_path: Path) -> None:
    """A file that is kept elsewhere gets the token, by whatever chain of links; logout as well."""
    real, middle = tmp_path / "real" / "kept.json", tmp_path / "middle.json"
    real.parent.mkdir()
    real.write_text("{}")
    real.chmod(0o600)
    middle.symlink_to(real)
    tokens.parent.mkdir()
    tokens.symlink_to(os.path.relpath(middle, tokens.parent))
    assert log_in(login, 1001).status == 0
    assert tokens.is_symlink()
    assert middle.is_symlink()
    assert json.loads(real.read_text()) == {"http://127.0.0.1:1001": "token-1001"}
    assert [path.name for path in real.parent.iterdir()] == ["kept.json"]


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_full_disk_loses_no_token(login: Kimi, tokens: Path, blocks: int) -> None:
    """T1: the old tokens stay, whether nothing or a part found room, and it is told."""
    assert log_in(login, 1001).status == 0
    before = tokens.read_bytes()
    result = log_in(limit_files(login, blocks), 1002, "t" * 700)
    assert result.status == 78
    assert result.error == f"kimi: cannot write {tokens}: File too large\n"
    assert tokens.read_bytes() == before
    assert [path.name for path in tokens.parent.iterdir()] == ["tokens.json"]


@pytest.mark.parametrize("error", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EBADF"])
def test_a_file_system_without_locks(login: Kimi, tokens: Path, error: str) -> None:
    """F20: a file stands in for the lock, which is said, and is gone afterwards."""
    result = log_in(fail_calls(login, "flock", f"error={error}"), 1001)
    assert result.status == 0
    assert "has no locks" in result.error
    assert f"{tokens}.lock stands in for one" in result.error
    assert json.loads(tokens.read_text()) == {"http://127.0.0.1:1001": "token-1001"}
    assert [path.name for path in tokens.parent.iterdir()] == ["tokens.json"]


def test_logins_without_locks_keep_all_tokens(login: Kimi, tokens: Path) -> None:
    """The file that stands in for a lock is as good as one, also after its maker was killed."""
    failing = fail_calls(login, "flock", "error=ENOLCK")
    tokens.parent.mkdir()
    dead = failing.start("--base-url", "http://127.0.0.1:1000", stdin=b"x\n")
    dead.wait()
    lock = Path(f"{tokens}.lock")
    lock.write_text(f"{2**22 - 1} {os.uname().nodename}\n")  # a number that no process has
    numbers = range(1001, 1006)
    runs = [
        failing.start("--base-url", f"http://127.0.0.1:{n}", stdin=f"token-{n}\n".encode())
        for n in numbers
    ]
    assert [run.wait().status for run in runs] == [0] * len(numbers)
    kept = json.loads(tokens.read_text())
    assert kept.keys() == {f"http://127.0.0.1:{number}" for number in (1000, *numbers)}
    assert not lock.exists()


def test_folders_are_private_whatever_the_umask(login: Kimi, home: Path) -> None:
    """T13: with umask 000, all folders that were missing are 0700, and the file is 0600."""
    config = home / "new" / "config"
    login = login.but(env={"XDG_CONFIG_HOME": str(config)})
    old = os.umask(0)
    try:
        assert log_in(login, 1001).status == 0
    finally:
        os.umask(old)
    modes = [path.stat().st_mode & 0o777 for path in (config.parent, config, config / "kimi")]
    assert modes == [0o700] * 3
    assert (config / "kimi/tokens.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("mode", "status"), [(0o777, 78), (0o733, 78), (0o1777, 0), (0o775, 0)])
def test_a_folder_that_all_may_write_to(
    kimi: Kimi, login: Kimi, tokens: Path, mode: int, status: int
) -> None:
    """T13: anybody could put another file there, unless it is sticky; so it is not used."""
    assert log_in(login, 1001).status == 0
    (tokens.parent / "config.toml").write_text("save = false\n")
    tokens.parent.chmod(mode)
    result = kimi("auth", "status", "--base-url", "http://127.0.0.1:1001")
    assert result.status == status
    if status:
        line = f"kimi: all may write to {tokens.parent}; run 'chmod o-w {tokens.parent}'\n"
        assert result.error == line
        (tokens.parent / "config.toml").unlink()
        assert kimi("auth", "status", "--base-url", "http://127.0.0.1:1001").error == line


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[1]", '{"a": 1}', ""])
def test_a_damaged_file_is_left_alone(login: Kimi, tokens: Path, text: str) -> None:
    """It is told, whatever it holds, and nothing is written over it."""
    tokens.parent.mkdir()
    tokens.write_text(text)
    tokens.chmod(0o600)
    result = log_in(login, 1001)
    assert result.status == 78
    assert "is damaged; remove it and log in again" in result.error
    assert tokens.read_text() == text
