"""One server for two teams: each loads its own contexts and cannot see the other's.

    python examples/team_server.py

starts `cachegen serve` with two tenants in a TOML file. A token stands in the URL here; it may
come from CACHEGEN_TOKEN instead. Beyond this machine add --tls-cert and --tls-key.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from cachegen import StoreDenied, open_store
from cachegen.engines.transformers import load_context, save_context
from cachegen.refmodel import load_text, weights_path

TENANTS = """
[[tenants]]
name = "search"
token = "token-of-search"  # token_sha256 = "..." keeps it out of the file
salt = "random and secret"
quota_mb = 20

[[tenants]]
name = "support"
token = "token-of-support"
salt = "another secret"
quota_mb = 20
"""


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """`cachegen serve` on a free port while the context lasts; gives host and port."""
    tenants = folder / "tenants.toml"
    tenants.touch(mode=0o600)  # who can read it is every tenant
    tenants.write_text(TENANTS)
    command = [sys.executable, "-m", "cachegen.cli", "serve", "--store", str(folder / "store")]
    command += ["--tenants", str(tenants), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().rpartition("//")[2].strip()
        finally:
            server.terminate()


def main(address: str) -> None:
    """Each team saves a text, then each asks for both."""
    model = AutoModelForCausalLM.from_pretrained(weights_path(), dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(weights_path())
    names = {"search": "heldout-craik", "support": "heldout-python"}
    texts = {team: tokenizer(load_text(name)[:900]).input_ids for team, name in names.items()}
    stores = {team: f"cachegen://:token-of-{team}@{address}" for team in texts}
    for team, text in texts.items():
        save_context(model, text, store=stores[team], levels=("high",))
    for team, store in stores.items():
        found = {name: load_context(model, texts[name], store=store).num_tokens for name in texts}
        print(f"{team} finds, in tokens: {found}")
    try:
        open_store(f"cachegen://:guessed@{address}").lookup(["manifests/any"])
    except StoreDenied as error:
        print(f"a guessed token: {error}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as address:
        main(address)
