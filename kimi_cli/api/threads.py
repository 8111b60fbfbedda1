"""Threads, of which a system may allow no more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from kimi_cli.errors import TemporaryFailure


def start_thread(target: Callable[..., None], *arguments: Any) -> threading.Thread:
    """Start a thread that does not outlive the program; raises TemporaryFailure."""
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise TemporaryFailure(
            f"the system allows no further thread ({error}); see 'ulimit -u', try again later"
        ) from error
    return thread
