"""A resolver for the program under test: every name leads to one port of this machine."""

from __future__ import annotations

from pathlib import Path


def lead_to(port: int, folder: Path) -> dict[str, str]:
    """Write the resolver into *folder*; return the variables with which the program has it."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        "import socket\n"
        "real = socket.getaddrinfo\n"
        "def getaddrinfo(host, port, *arguments, **options):\n"
        f"    return real('127.0.0.1', {port}, *arguments, **options)\n"
        "socket.getaddrinfo = getaddrinfo\n"
    )
    return {"PYTHONPATH": str(folder)}
