"""Faults that the system itself makes: calls that fail, and disks that are full."""

from __future__ import annotations

from dataclasses import replace

from program import Kimi


def fail_calls(kimi: Kimi, call: str, fault: str) -> Kimi:
    """Let the kernel refuse *call* as *fault* says, in the words of strace's ``inject``."""
    wrapper = kimi.folder / f"failing-{call}"
    wrapper.write_text(
        "#!/bin/sh\n"
        f"exec strace -f -qq -o /dev/null -e trace={call} -e inject={call}:{fault} "
        f'"{kimi.program}" "$@"\n'
    )
    wrapper.chmod(0o755)
    return replace(kimi, program=wrapper)


def limit_files(kimi: Kimi, blocks: int) -> Kimi:
    """Let no file grow over so many blocks of 512 bytes."""
    wrapper = kimi.folder / "limited"
    wrapper.write_text(
        "#!/bin/sh\n"
        f"ulimit -f {blocks}\n"
        "export PYTHONDONTWRITEBYTECODE=1\n"  # it would stay, cut short
        f'exec "{kimi.program}" "$@"\n'
    )
    wrapper.chmod(0o755)
    return replace(kimi, program=wrapper)
