"""Files of tokens: what is ours must be closed, and what a platform hands over is taken."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import Kimi

TOKEN = "sk-first-0123456789abcdef"

NOBODY, GROUP = 65534, 4242


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A folder that everybody can look into, as a container's /run/secrets is."""
    if os.geteuid() != 0:
        pytest.skip("only a superuser can be somebody else")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def read_as_nobody(path: Path) -> str:
    """What a process without rights gets to see of a token in a file, as one of GROUP."""
    code = (
        "import os, sys\n"
        "sys.path[:] = " + repr(sys.path) + "\n"
        "from kimi_cli.credentials.bearer import _read_private\n"
        "from kimi_cli.errors import ConfigError\n"
        f"os.setgroups([{GROUP}]); os.setgid({GROUP}); os.setuid({NOBODY})\n"
        "try: print(_read_private(sys.argv[1], 'x').decode())\n"
        "except (ConfigError, OSError) as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    text: str = done.stdout.strip()
    return text


@pytest.mark.parametrize(
    ("owner", "group", "mode", "told"),
    [
        (0, GROUP, 0o440, TOKEN),  # Kubernetes with fsGroup
        (0, 0, 0o444, TOKEN),  # Docker
        (NOBODY, GROUP, 0o600, TOKEN),
        (NOBODY, GROUP, 0o640, "can be read by others; run 'chmod 600"),
        (NOBODY, GROUP, 0o444, "can be read by others; run 'chmod 600"),
        (0, GROUP, 0o460, "can be written by others"),
        (0, 0, 0o446, "can be written by others"),
        (1234, GROUP, 0o444, "belongs to another user (uid 1234)"),
        (0, 0, 0o400, "Permission denied"),
    ],
)
def test_a_file_of_a_platform_is_taken(
    shared: Path, owner: int, group: int, mode: int, told: str
) -> None:
    """What nobody there could close is accepted; what is ours must be closed."""
    path = shared / "token"
    path.write_text(TOKEN)
    os.chown(path, owner, group)
    path.chmod(mode)
    assert told in read_as_nobody(path)


def test_a_token_on_a_fixed_file_system_is_taken(kimi: Kimi, shared: Path) -> None:
    """A container's superuser cannot close what is mounted read-only."""
    script = (
        f"mount -t tmpfs none {shared} && printf {TOKEN} >{shared}/token && "
        f"chmod 444 {shared}/token && mount -o remount,ro {shared} && exec "
        f"{kimi.program} auth token --token-file {shared}/token"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=dict(kimi.environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert (done.stdout.strip(), done.returncode) == (TOKEN, 0)


@pytest.mark.parametrize("mode", [0o644, 0o660])
def test_one_rule_for_credentials_of_systemd(kimi: Kimi, home: Path, mode: int) -> None:
    """A file of ours that others can read is refused there, too."""
    path = home / "kimi-token"
    path.write_text(TOKEN)
    path.chmod(mode)
    result = kimi("auth", "token", env={"CREDENTIALS_DIRECTORY": str(home)})
    assert result.status == 78
    assert f"chmod 600 {path}" in result.error
    path.chmod(0o400)
    result = kimi("auth", "token", env={"CREDENTIALS_DIRECTORY": str(home)})
    assert result.stdout.decode().strip() == TOKEN
