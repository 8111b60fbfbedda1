"""Everything that can go wrong, and the exit status the shell sees for it.

KimiError
├── IncompleteAnswer    3   the answer ended early, or is empty
├── InvalidAnswer       5   the answer has not the form that was asked for
├── BadInput           65   what we were given cannot be sent
├── MissingInput       66   a file that we were to read is not there
├── Unreachable        69   the service cannot be used; 75 where that may pass
├── CannotCreate       73   an output file cannot be created or used
├── OutputFailed       74   what we wrote did not arrive
├── TemporaryFailure   75   the same call may succeed later
│   ├── TimedOut            a time limit ran out
│   └── StreamTruncated     the answer was cut off on the wire
├── NotTheApi          76   the reply is not what the API sends
├── Refused             *   the API said no; its words decide the status
├── BatchEnded          *   a batch ended with rows that are not answered
└── ConfigError        78   settings or the bearer token are missing or wrong

OutputClosed (the reader of stdout left) and Terminated (a signal) stand apart: the process
dies by a signal for them, and no ``except KimiError`` may swallow that.
"""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """What ``$?`` means; the numbers never change their meaning."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitStatus:
        """Make an integer that carries its own explanation."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "a complete answer was written"
    NO = 1, "the answer to 'ask --test' is no"
    USAGE = 2, "wrong option or missing argument"
    INCOMPLETE = 3, "the answer ended early (length, content filter) or is empty"
    PARTIAL = 4, "a batch ran to its end, but some rows failed for good; see its output"
    INVALID = 5, "the answer has not the form that was asked for, so it was not written"
    DATA = 65, "the input is bad, or the API refused it (HTTP 400, 413, 422)"
    NO_INPUT = 66, "an input file is missing or unreadable"
    UNAVAILABLE = 69, "the service cannot be used: unknown host or model, TLS, a proxy refuses"
    SOFTWARE = 70, "a bug in kimi"
    CANNOT_CREATE = 73, "an output file cannot be created or used"
    IO = 74, "a read or write error: disk full, closed stdout"
    TEMPORARY = (
        75,
        "no network, rate limit, server failure, time limit, cut answer; try again later",
    )
    PROTOCOL = 76, "the reply is not the API's: HTML, bad JSON, a redirect"
    NO_PERMISSION = 77, "the bearer token was refused, or the account has no quota left"
    CONFIG = 78, "no bearer token, no keyring, or bad configuration"


class KimiError(Exception):
    """A failure that a person can understand: its text is one line, without a full stop."""

    status = ExitStatus.SOFTWARE


class IncompleteAnswer(KimiError):
    """The API ended the answer for another reason than its own full stop, or it is empty."""

    status = ExitStatus.INCOMPLETE


class InvalidAnswer(KimiError):
    """A whole answer that is not of the form that was asked for, however often it was asked."""

    status = ExitStatus.INVALID


class BadInput(KimiError, ValueError):
    """A prompt, file or option value that cannot be sent."""

    status = ExitStatus.DATA


class MissingInput(KimiError):
    """An input file that is missing or unreadable."""

    status = ExitStatus.NO_INPUT


class Unreachable(KimiError, ConnectionError):
    """No usable connection: name resolution, refusal, certificate, proxy."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        """Say what failed; *transient* when another attempt makes sense, now or later."""
        super().__init__(message)
        self.transient = transient
        self.status = ExitStatus.TEMPORARY if transient else ExitStatus.UNAVAILABLE


class CannotCreate(KimiError):
    """An output file that cannot be created, locked or used."""

    status = ExitStatus.CANNOT_CREATE


class OutputFailed(KimiError):
    """Standard output or an output file did not take what was written."""

    status = ExitStatus.IO


class NotKept(OutputFailed):
    """An answer came and was shown, but is not in the conversation that was named for it."""


class TemporaryFailure(KimiError):
    """A failure that may pass: run the same call again later."""

    status = ExitStatus.TEMPORARY


class TimedOut(TemporaryFailure, TimeoutError):
    """One of our own time limits ran out."""

    def __init__(self, message: str, *, final: bool = False, sent: bool = True) -> None:
        """Say which limit; *final* when it was the limit of the whole call.

        *sent* is whether the request may have reached the service.
        """
        super().__init__(message)
        self.final = final
        self.sent = sent


class StreamTruncated(TemporaryFailure):
    """The reply ended before a finish_reason or ``[DONE]``."""


class NotTheApi(KimiError):
    """A reply that is not the API's: HTML, a redirect, broken JSON or framing."""

    status = ExitStatus.PROTOCOL


class ConfigError(KimiError):
    """Configuration, environment or the bearer token is missing or wrong."""

    status = ExitStatus.CONFIG


class OutputClosed(BaseException):
    """Whoever read our standard output has left: die quietly, as ``cat`` would."""


class BatchEnded(KimiError):
    """A batch that did what it could; its rows decide the status."""

    def __init__(self, message: str, status: ExitStatus) -> None:
        """Say what is left, and name the status."""
        super().__init__(message)
        self.status = status


class Terminated(BaseException):
    """A signal that ends a process arrived: clean up, then die by that signal."""

    def __init__(self, signum: int) -> None:
        """Remember which signal it was."""
        super().__init__(signum)
        self.signum = signum
