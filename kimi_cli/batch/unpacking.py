"""Packed input, read as what it holds: gzip, and zstd where this Python or an extra has it."""

from __future__ import annotations

import importlib
import io
import zlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kimi_cli.errors import BadInput

if TYPE_CHECKING:
    from typing_extensions import Buffer

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_MODULES = ("compression.zstd", "backports.zstd")
"""The standard library's since Python 3.14, and the same for older ones."""
_BLOCK = 2**18


class _Unpacked(io.RawIOBase):
    """What a packed file holds, as a raw stream."""

    def __init__(self, name: str, stream: Any, errors: tuple[type[Exception], ...]) -> None:
        """Read *stream*, which raises *errors* for data that is not what *name* says."""
        self._name = name
        self._stream = stream
        self._errors = errors

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Fill *buffer* with what comes; 0 is the end. Raises BadInput, and OSError."""
        try:
            return int(self._stream.readinto(buffer))
        except EOFError as error:
            raise BadInput(f"its {self._name} is cut short") from error
        except self._errors as error:
            raise BadInput(f"its {self._name} is damaged") from error


def is_packed(beginning: bytes) -> bool:
    """Tell whether a file that begins so is unpacked here."""
    return beginning.startswith((_GZIP, _ZSTD))


def unpack(file: io.BufferedReader) -> io.BufferedReader:
    """Return *file*, or what it holds where it is packed; raises BadInput without the extra."""
    beginning = file.peek(len(_ZSTD))
    if beginning.startswith(_GZIP):
        import gzip  # noqa: PLC0415 - takes long to load, and most inputs are not packed

        stream: Any = gzip.GzipFile(fileobj=file)
        return _buffer("gzip", stream, (gzip.BadGzipFile, zlib.error))
    if beginning.startswith(_ZSTD):
        zstd = _load_zstd()
        return _buffer("zstd", zstd.ZstdFile(file), (zstd.ZstdError,))
    return file


def _buffer(name: str, stream: Any, errors: tuple[type[Exception], ...]) -> io.BufferedReader:
    return io.BufferedReader(_Unpacked(name, stream, errors), _BLOCK)


def _load_zstd() -> Any:
    for name in _ZSTD_MODULES:
        if find_spec(name.partition(".")[0]) is not None and find_spec(name) is not None:
            return importlib.import_module(name)
    from kimi_cli.system.installation import advise_extra  # noqa: PLC0415 - for who lacks it

    raise BadInput(
        f"this is zstd, not lines of text; zstd -dc FILE | kimi batch …, or once: "
        f"{advise_extra('zstd')}"
    )
