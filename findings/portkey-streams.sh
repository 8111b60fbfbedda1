#!/bin/bash
# @portkey-ai/gateway 1.15.2, as npm installs it with @hono/node-server 1.19.19:
# every streamed answer is HTTP 500, whatever stands behind the gateway; the same question without
# "stream" is answered. With @hono/node-server 1.13.8 the stream comes through.
#
# Seen on 27 November 2026, Node.js 20.20.2:
#
#   1.19.19 plain: 200
#   1.19.19 stream: 500 {"status":"failure","message":"Something went wrong"}
#   1.13.8 plain: 200
#   1.13.8 stream: 200 data: [DONE]
#
# Exits 0 as long as that is so. Needs node, npm, python3, curl and the npm registry.

set -euo pipefail

expected='1.19.19 plain: 200
1.19.19 stream: 500 {"status":"failure","message":"Something went wrong"}
1.13.8 plain: 200
1.13.8 stream: 200 data: [DONE]'

folder=$(mktemp -d)
pids=()
trap 'kill -- "${pids[@]}" 2>/dev/null || true; rm -rf "$folder"' EXIT

free_port() {
    python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

await() {
    for _ in $(seq 300); do
        curl -s -o "$folder/up" "http://127.0.0.1:$1/" && return
        sleep 0.2
    done
    echo "nothing came up" >&2
    exit 2
}

# What stands behind: answers every question with one word, streamed or not.
cat >"$folder/model.py" <<'PYTHON'
import http.server, json, sys

class Model(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        streamed = asked.get("stream")
        key = "delta" if streamed else "message"
        choice = {"index": 0, key: {"role": "assistant", "content": "Yes"}, "finish_reason": "stop"}
        kind = "chat.completion" + (".chunk" if streamed else "")
        whole = {"id": "1", "object": kind, "created": 1, "model": "m", "choices": [choice]}
        text = json.dumps(whole)
        if streamed:
            text = f"data: {text}\n\ndata: [DONE]\n\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if streamed else "application/json")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Model).serve_forever()
PYTHON
model=$(free_port)
python3 "$folder/model.py" "$model" &
pids+=($!)
await "$model"

try() {
    local version=$1 port stream name status
    mkdir "$folder/$version"
    cd "$folder/$version"
    echo "{\"private\":true,\"overrides\":{\"@hono/node-server\":\"$version\"}}" >package.json
    npm install --silent --no-audit --no-fund --ignore-scripts @portkey-ai/gateway@1.15.2 >&2
    port=$(free_port)
    node node_modules/@portkey-ai/gateway/build/start-server.js --port="$port" --headless >&2 &
    pids+=($!)
    await "$port"
    for stream in false true; do
        name=plain
        [ $stream = false ] || name=stream
        status=$(curl -s -m 60 -o "$folder/body" -w '%{http_code}' \
            -H 'Content-Type: application/json' -H 'Authorization: Bearer none' \
            -H 'x-portkey-provider: openai' \
            -H "x-portkey-custom-host: http://127.0.0.1:$model/v1" \
            -d "{\"model\":\"m\",\"stream\":$stream,\"messages\":[{\"role\":\"user\",\"content\":\"Yes?\"}]}" \
            "http://127.0.0.1:$port/v1/chat/completions")
        [ $name = plain ] && echo "$version plain: $status" && continue
        echo "$version stream: $status $(grep . "$folder/body" | tail -n 1)"
    done
}

{ try 1.19.19; try 1.13.8; } >"$folder/found"
found=$(cat "$folder/found")
echo "$found"
[ "$found" = "$expected" ] || { echo "this has changed" >&2; exit 1; }
