"""Completion answers in bash, zsh and fish, at once: no token, no network, no keyring."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from program import Kimi

from kimi_cli.api.catalogue import DOCUMENTED
from kimi_cli.cli import COMMANDS
from kimi_cli.settings.profiles import BUILT_IN

SHELLS = ("bash", "zsh", "fish")
PROFILES = [profile.name for profile in BUILT_IN]
OWN_PROFILE = '[profiles.desk]\nbase_url = "http://127.0.0.1:8080/v1"\nauth = "none"\n'

shell = pytest.mark.parametrize("shell", SHELLS)

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(kimi: Kimi) -> Complete:
    """What could stand at the end of a command line, in the words of one shell."""

    def complete(*words: str, shell: str = "bash", **variables: str) -> list[str]:
        line = {"COMP_WORDS": " ".join(["kimi", *words]), "COMP_CWORD": str(len(words))}
        if shell == "fish":
            line["COMP_CWORD"] = words[-1]
        finished = kimi(env={**line, **variables, "_KIMI_COMPLETE": f"{shell}_complete"})
        assert (finished.status, finished.stderr) == (0, b"")
        lines = finished.stdout.decode().splitlines()
        if shell == "zsh":
            # Three lines each: a type, the word, and what it means.
            return lines[1::3]
        # "type,word" in bash; in fish the meaning follows after a tab.
        return [line.partition(",")[2].partition("\t")[0] for line in lines]

    return complete


@pytest.fixture
def script(kimi: Kimi, tmp_path: Path) -> Callable[[str], Path]:
    """The script that a shell reads at its start."""

    def write(shell: str) -> Path:
        finished = kimi(env={"_KIMI_COMPLETE": f"{shell}_source"})
        assert (finished.status, finished.stderr) == (0, b"")
        path = tmp_path / f"kimi.{shell}"
        path.write_bytes(finished.stdout)
        return path

    return write


def require(shell: str) -> None:
    """Skip where the shell is not installed, but not in CI."""
    if shutil.which(shell) is None:
        assert "CI" not in os.environ, f"CI must have {shell}"
        pytest.skip(f"needs {shell}")


def run(kimi: Kimi, *command: str) -> list[str]:
    """The lines that a shell prints in the program's environment."""
    finished = subprocess.run(
        command, env=kimi.environment, cwd=kimi.folder, capture_output=True, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, b"")
    return finished.stdout.decode().splitlines()


# What is offered


@shell
def test_commands(complete: Complete, shell: str) -> None:
    assert complete("", shell=shell) == list(COMMANDS)
    assert complete("a", shell=shell) == ["ask", "auth"]
    assert complete("auth", "lo", shell=shell) == ["login", "logout"]


@shell
def test_options(complete: Complete, shell: str) -> None:
    assert complete("ask", "--max", shell=shell) == ["--max-input", "--max-tokens", "--max-time"]
    assert complete("auth", "login", "--ins", shell=shell) == ["--insecure-storage"]
    assert complete("ask", "--reasoning", "", shell=shell) == ["show", "hide"]


@shell
@pytest.mark.parametrize("option", ["-m", "--model"])
def test_models(complete: Complete, shell: str, option: str) -> None:
    assert complete("ask", option, "", shell=shell) == [model.id for model in DOCUMENTED]
    assert complete("ask", option, "kimi-k2.5", shell=shell) == ["kimi-k2.5"]


@shell
@pytest.mark.parametrize("command", [("ask",), ("models",), ("auth", "login")], ids=" ".join)
def test_profiles(complete: Complete, home: Path, shell: str, command: tuple[str, ...]) -> None:
    assert complete(*command, "--profile", "", shell=shell) == PROFILES
    (home / ".config/kimi").mkdir()
    (home / ".config/kimi/config.toml").write_text(OWN_PROFILE)
    assert complete(*command, "--profile", "", shell=shell) == [*PROFILES, "desk"]
    assert complete(*command, "--profile", "de", shell=shell) == ["desk"]


def test_a_bad_configuration_file_leaves_the_command_line_alone(
    complete: Complete, home: Path
) -> None:
    (home / ".config/kimi").mkdir()
    (home / ".config/kimi/config.toml").write_text("profile = [\n")
    assert complete("ask", "--profile", "") == PROFILES


# What it costs


@pytest.mark.parametrize(
    "words", [[""], ["ask", "--"], ["ask", "-m", ""], ["ask", "--profile", ""], ["auth", ""]]
)
def test_nothing_slow_is_loaded(kimi: Kimi, words: list[str]) -> None:
    finished = kimi(
        env={
            "_KIMI_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["kimi", *words]),
            "COMP_CWORD": str(len(words)),
            "PYTHONPROFILEIMPORTTIME": "1",
            # Anything that asked a keyring or a host would come here.
            "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nonexistent",
            "HTTPS_PROXY": "http://127.0.0.1:9",
        }
    )
    assert finished.status == 0
    assert finished.stdout
    loaded = {line.rpartition("|")[2].strip() for line in finished.error.splitlines()}
    assert "kimi_cli.cli" in loaded
    assert not loaded & {"requests", "urllib3", "keyring", "ssl", "kimi_cli.api.client"}


# In the shells


@shell
def test_a_shell_accepts_the_script(kimi: Kimi, script: Callable[[str], Path], shell: str) -> None:
    require(shell)
    assert run(kimi, shell, "-n", str(script(shell))) == []


def test_bash_completes(kimi: Kimi, script: Callable[[str], Path]) -> None:
    require("bash")
    program = f"""
        . {script("bash")}
        words=$(complete -p kimi) && function=${{words#*-F }} && function=${{function%% *}}
        COMP_WORDS=(kimi ask --profile moon) COMP_CWORD=3
        $function kimi
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert run(kimi, "bash", "--norc", "-c", program) == ["moonshot", "moonshot-cn"]


def test_zsh_completes(kimi: Kimi, script: Callable[[str], Path]) -> None:
    # The functions of zsh's completion system work at its prompt only: others take what they get.
    require("zsh")
    program = f"""
        compdef() {{ function=$1 }}
        _describe() {{ print -rl -- ${{(P)3}} }}
        source {script("zsh")}
        words=(kimi au) CURRENT=2
        $function
    """
    lines = run(kimi, "zsh", "-f", "-c", program)
    assert lines == ["auth:Keep, show and forget bearer tokens."]


def test_fish_completes(kimi: Kimi, script: Callable[[str], Path]) -> None:
    require("fish")
    program = f"source {script('fish')}; complete --do-complete 'kimi ask -m kimi-k2-thinking'"
    lines = run(kimi, "fish", "--no-config", "-c", program)
    assert lines == ["kimi-k2-thinking", "kimi-k2-thinking-turbo"]
