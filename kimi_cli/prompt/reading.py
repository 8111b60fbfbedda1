"""The prompt: argument words, attached files and standard input, in that order.

When standard input is read is decided by what it is. A pipe is always read; a regular file from
its beginning; one that somebody has begun to read belongs to a shell loop; a device such as
/dev/null, or a closed descriptor, is no input. ``-`` names it explicitly, whatever it is.
"""

from __future__ import annotations

import codecs
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kimi_cli.errors import BadInput, MissingInput, TimedOut
from kimi_cli.prompt.content import Prompt, put_before
from kimi_cli.prompt.kinds import LONGEST, Kind, find_kind
from kimi_cli.system.stdin import open_stdin, read_some, wait_for_input

STDIN = "-"
_STDIN_NAME = "standard input"
_IN = 0
_PIECE = 2**20
_SHOWN = 3
"""How many names are told."""
_HINT_AFTER = 2.0


@dataclass(frozen=True, eq=False, repr=False)
class Reading:
    """How input becomes text: its encoding, what to do with bad bytes, the largest size."""

    encoding: str = "utf-8"
    replace_invalid: bool = False
    limit: int = 64 * 2**20
    warn: Callable[[str], None] = lambda message: None
    max_time: float | None = None
    """Seconds that the whole call may take, the wait for standard input among them."""
    began: float = 0.0
    """When the call began, on the monotonic clock."""

    @property
    def deadline(self) -> float | None:
        """The moment, on the monotonic clock, at which nothing is waited for any more."""
        return None if self.max_time is None else self.began + self.max_time


def compose_prompt(
    words: Sequence[str],
    paths: Sequence[str],
    images: Sequence[str] = (),
    *,
    use_stdin: bool,
    reading: Reading,
) -> Prompt | None:
    """Return the user message, or None when nothing at all was given on a terminal.

    Raises BadInput for text that cannot be sent, MissingInput for a file that cannot be read.
    """
    text = " ".join(decode_argument(word) for word in words if word != STDIN)
    named = STDIN in words
    if not (words or paths or images) and use_stdin and _stdin_is_terminal():
        return None
    parts = [text] if text.strip() else []
    _warn_of_names(words, paths, reading)
    attached = [read_attachment(path, reading) for path in paths]
    parts += attached
    pictures = [part for path in images for part in read_image(path, reading).others]
    is_free = use_stdin and STDIN not in (*paths, *images)
    if is_free and (named or stdin_is_ours(has_text=bool(parts or pictures))):
        piped = read_stdin(reading)
        parts += [drop_last_line_end(piped)] if piped.strip() else []
    is_empty = not any(part.strip() for part in parts)
    if not pictures and (is_empty or parts == list(filter(_is_headline, attached))):
        raise BadInput("the prompt is empty; give it as an argument, with --file, or on stdin")
    return put_before(pictures, "\n\n".join(parts))


def _warn_of_names(words: Sequence[str], paths: Sequence[str], reading: Reading) -> None:
    """Say which words are names of files, as a shell makes them of ``-f *.txt``."""
    names = [
        word
        for word in words
        if word != STDIN and (paths or "." in word or "/" in word) and os.path.isfile(word)
    ]
    if names:
        shown = ", ".join(map(show_path, names[:_SHOWN])) + (", …" if names[_SHOWN:] else "")
        are = "is a file" if len(names) == 1 else "are files"
        reading.warn(f"sent as words, though there {are} of that name: {shown}; attach with -f")


def show_path(path: str) -> str:
    """Return a name that can be sent and shown, whatever its bytes are."""
    return os.fsencode(path).decode("utf-8", "replace")


def _is_headline(attachment: str) -> bool:
    """Tell whether a file that was attached is nothing but its name."""
    return not attachment.partition(":\n")[2].strip()


def read_prompts(reading: Reading) -> Iterator[str]:
    """Yield each line of standard input as soon as it is there; blank ones are none.

    Raises BadInput for a line that is not text, or too long, MissingInput when reading fails.
    """
    if sys.stdin is None:
        return
    errors = "replace" if reading.replace_invalid else "strict"
    decoder = codecs.getincrementaldecoder(reading.encoding)(errors)
    number, text, ended = 1, "", False
    stdin = open_stdin()
    while not ended:
        try:
            piece = stdin.readline(reading.limit + 1)
            ended = not piece
            text += decoder.decode(piece, final=ended)
        except UnicodeError as error:
            raise BadInput(
                f"line {number} of standard input is not {reading.encoding.upper()}; give "
                "--encoding, or --replace-invalid"
            ) from error
        except OSError as error:
            raise MissingInput(f"cannot read standard input: {error.strerror}") from error
        if len(text.encode(errors="replace")) > reading.limit:
            raise BadInput(f"line {number} of standard input is too long; see --max-input")
        if "\0" in text:
            raise BadInput(f"line {number} of standard input holds NUL bytes: it looks binary")
        *lines, text = [text, ""] if ended else text.split("\n")
        for line in lines:
            yield line.removeprefix("\ufeff").removesuffix("\r")
            number += 1


def read_attachment(path: str, reading: Reading) -> str:
    """Return a file's text under a line with its name."""
    if path == STDIN:
        return f"stdin:\n{drop_last_line_end(read_stdin(reading))}"
    return f"{show_path(path)}:\n{read_text(path, reading)}"


def read_image(path: str, reading: Reading) -> Prompt:
    """Return an image, from a file or standard input; raises MissingInput or BadInput."""
    from kimi_cli.prompt.images import make_image  # noqa: PLC0415 - for images only

    if path == STDIN:
        return Prompt((make_image(_read_stdin_bytes(reading), _STDIN_NAME),))
    return Prompt((make_image(_read_file(path, reading), show_path(path)),))


def read_part(path: str, reading: Reading) -> str:
    """Return a file's text, or that of standard input for ``-``, without its last line end."""
    if path == STDIN:
        return drop_last_line_end(read_stdin(reading))
    return read_text(path, reading)


def read_text(path: str, reading: Reading) -> str:
    """Return a file's text without its last line end; raises MissingInput or BadInput."""
    return drop_last_line_end(_decode(_read_file(path, reading), path, reading))


def _read_file(path: str, reading: Reading) -> bytes:
    if "\0" in path:
        raise MissingInput(f"cannot read {path!r}: no name holds a NUL byte")
    try:
        with open(path, "rb") as file:
            return _read_bounded(file.fileno(), path, reading)
    except OSError as error:
        raise MissingInput(f"cannot read {path}: {error.strerror}") from error


def _stdin_is_terminal() -> bool:
    return sys.stdin is not None and os.isatty(_IN)


def stdin_is_ours(*, has_text: bool) -> bool:
    """Tell whether standard input is there to be read as (a part of) the prompt."""
    if sys.stdin is None:
        return False
    mode = os.fstat(_IN).st_mode
    if stat.S_ISCHR(mode):
        return False
    if stat.S_ISREG(mode) and has_text:
        return os.lseek(_IN, 0, os.SEEK_CUR) == 0
    return True


def read_stdin(reading: Reading) -> str:
    """Return the text of standard input; raises BadInput, MissingInput, TimedOut."""
    return _decode(_read_stdin_bytes(reading), _STDIN_NAME, reading)


def _read_stdin_bytes(reading: Reading) -> bytes:
    if sys.stdin is None:
        return b""
    if not stat.S_ISREG(os.fstat(_IN).st_mode) and not os.isatty(_IN):
        try:
            wait_for_input(_IN, _HINT_AFTER, reading.deadline)
        except TimeoutError:
            reading.warn("waiting for standard input; use -n to leave it alone")
    try:
        return _read_bounded(_IN, _STDIN_NAME, reading)
    except TimeoutError:
        raise TimedOut(
            f"standard input did not end within {reading.max_time:g} s (limit: max-time)",
            final=True,
            sent=False,
        ) from None
    except OSError as error:
        raise MissingInput(f"cannot read standard input: {error.strerror}") from error


def _read_bounded(descriptor: int, name: str, reading: Reading) -> bytes:
    """Read to the end; raise BadInput beyond the limit, before memory is spent on what follows.

    Raises TimeoutError when the deadline passes, and OSError.
    """
    pieces, size = [], 0
    while piece := read_some(descriptor, _PIECE, reading.deadline):
        pieces.append(piece)
        size += len(piece)
        if size > reading.limit:
            raise BadInput(f"{name} is larger than {reading.limit} bytes; see --max-input")
    return b"".join(pieces)


def _decode(data: bytes, name: str, reading: Reading) -> str:
    """Decode strictly, whatever the locale; a wrong byte is named by its offset.

    What is no text is named, but a PDF, whose text is taken out of it where that can be done.
    """
    if (kind := find_kind(data[:LONGEST])) is not None:
        return _extract(data, name, kind)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and reading.encoding == "utf-8":
        raise BadInput(f"{name} is UTF-16, not UTF-8; give --encoding utf-16")
    try:
        text = data.decode(reading.encoding, "replace" if reading.replace_invalid else "strict")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{name} is not {reading.encoding.upper()} at byte {error.start}; "
            "give --encoding, or --replace-invalid"
        ) from error
    if "\0" in text:
        raise BadInput(f"{name} holds NUL bytes: it looks binary; convert it to text first")
    return text.removeprefix("\ufeff")


def _extract(data: bytes, name: str, kind: Kind) -> str:
    """Return the text of what is no text itself; raises BadInput, which says what helps."""
    file = "FILE" if name == _STDIN_NAME else name
    more = ""
    if kind.is_pdf:
        from kimi_cli.prompt.pdf import can_read_pdf, extract_text  # noqa: PLC0415 - for PDFs only

        if can_read_pdf():
            return extract_text(data, name)
        from kimi_cli.system.installation import advise_extra  # noqa: PLC0415 - for who lacks it

        more = f", or once: {advise_extra('pdf')}"
    raise BadInput(f"{name} is {kind.name}, not text; {kind.advise(file)}{more}")


def decode_argument(word: str) -> str:
    """Take an argument back to its bytes, and read them as UTF-8 whatever the locale.

    Raises BadInput.
    """
    try:
        return os.fsencode(word).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"an argument is not UTF-8 at byte {error.start}") from error


def drop_last_line_end(text: str) -> str:
    """Drop one line end: the parts are separated by a blank line of ours."""
    return text.removesuffix("\n").removesuffix("\r")
