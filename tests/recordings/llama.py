"""The server of llama.cpp, as xllamacpp brings it: llama.py MODEL PORT SLOTS CONTEXT UNIFIED."""

from __future__ import annotations

import sys
import threading

import xllamacpp

# One example is enough for a model of this size to answer with a word or two.
TEMPLATE = """\
{% if tools %}<|im_start|>system
You may call these tools: {{ tools | tojson }}<|im_end|>
{% endif %}<|im_start|>user
What is the capital of Italy?<|im_end|>
<|im_start|>assistant
Rome.<|im_end|>
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def serve(model: str, port: int, slots: int, context: int, unified: bool) -> None:
    """Answer until the process is ended."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {"smollm2"}
    params.api_keys = ["good-token"]
    params.port = port
    params.ui = False
    params.verbosity = 1
    params.n_ctx = context
    params.n_parallel = slots
    params.kv_unified = unified
    params.n_batch = params.n_ubatch = 64
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.chat_template = TEMPLATE
    params.sampling.temp = 0.0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    file, *numbers = sys.argv[1:]
    port, slots, context, unified = map(int, numbers)
    serve(file, port, slots, context, bool(unified))
