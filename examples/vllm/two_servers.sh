#!/usr/bin/env bash
# One vLLM computes a text and saves it; another one, started afterwards, loads it.
#
#     examples/vllm/two_servers.sh [MODEL [PROFILE]]
#
# PYTHON is that of vLLM's environment, by default .venv-vllm/bin/python of `make vllm-env`. MODEL is
# the folder of a model, by default the small one of the package.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$here/../../.venv-vllm/bin/python}
model=${1:-$("$python" -c 'from cachegen.refmodel import weights_path; print(weights_path())')}
profile=${2:+, \"profile\": \"$2\"}
port=${PORT:-8200}
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$work"' EXIT

# 1. The store. Beyond this machine: --host, and --tenants FILE or --allow-anonymous.
"$python" -m cachegen.cli serve --store "$work/contexts" --port "$port" &

# 2. vLLM with the connector: `vllm serve MODEL` with these options, where the command is installed.
serve() {
  "$python" -m vllm.entrypoints.openai.api_server --model "$model" --served-model-name model \
    --port $((port + 1)) --max-model-len 8192 --enforce-eager --enable-prompt-tokens-details \
    --shutdown-timeout 20 \
    --kv-transfer-config '{
      "kv_connector": "CacheGenConnector",
      "kv_role": "kv_both",
      "kv_load_failure_policy": "recompute",
      "kv_connector_extra_config": {"store": "cachegen://127.0.0.1:'"$port"'"'"$profile"'}
    }' >"$work/$1.log" 2>&1 &
  vllm=$!
  until "$python" -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$((port + 1))/health')" 2>"$work/error"
  do
    kill -0 $vllm || { cat "$work/$1.log"; exit 1; }
    sleep 1
  done
}
finish() {
  kill $vllm
  wait $vllm || true
}
ask() {
  echo "$1: $("$python" "$here/ask.py" "http://127.0.0.1:$((port + 1))" "$work/text" "$2")"
}
"$python" -c 'from cachegen.refmodel import load_text; print(load_text("heldout-craik")[:12000])' >"$work/text"

serve first
ask 'first server ' ' The'
ask 'its own cache' ' Then'
finish
serve second
ask 'second server' ' The'
finish
