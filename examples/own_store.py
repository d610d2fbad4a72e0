"""A store of one's own: a near store in front of a far one, which keeps what was fetched.

    python examples/own_store.py

A store has five verbs and a name; `cachegen.Store` says what each must do. Objects never change,
so that a copy of one is as good as the object.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import AutoModelForCausalLM, AutoTokenizer

from cachegen import Store, open_store
from cachegen.engines.transformers import load_context, save_context
from cachegen.refmodel import load_text, weights_path


@dataclass(frozen=True)
class NearFirst:
    """Reads from `near` what is there; what is not is read from `far`, and then kept."""

    near: Store
    far: Store

    @property
    def url(self) -> str:
        """The store's name in messages."""
        return f"{self.near.url} before {self.far.url}"

    def put(self, key: str, data: bytes, *, parent: str | None = None) -> bool:
        """Create the object; False where there is one."""
        return self.far.put(key, data, parent=parent)

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[bytes]:
        """The object's bytes as they arrive, or a range of them."""
        if self.near.lookup([key]) != [None]:
            return self.near.get(key, range)
        parts = self.far.get(key, range)
        return parts if range else self._keeping(key, parts)

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        """The sizes of objects; None where there is none."""
        return self.far.lookup(keys)

    def list(self, prefix: str = "") -> Iterator[str]:
        """The keys below a prefix of whole segments."""
        return self.far.list(prefix)

    def delete(self, key: str) -> None:
        """Remove the object, if there is one."""
        self.near.delete(key)
        self.far.delete(key)

    def _keeping(self, key: str, parts: Iterator[bytes]) -> Iterator[bytes]:
        """The same parts; once all were read they are kept, of a broken transfer nothing."""
        read = []
        for part in parts:
            read.append(bytes(part))
            yield part
        self.near.put(key, b"".join(read))


def main(far: Store) -> None:
    """Save a text to the far store, and load it through both."""
    model = AutoModelForCausalLM.from_pretrained(weights_path(), dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(weights_path())
    document = tokenizer(load_text("heldout-craik")[:1000]).input_ids
    store = NearFirst(open_store("memory:"), far)
    save_context(model, document, store=store, levels=("low", "high"), chunk_tokens=128)
    loaded = load_context(model, document, store=store, level="high")
    print(f"loaded {loaded.num_tokens} of {len(document)} tokens")
    num_near, num_far = (len(list(part.list("chunks"))) for part in (store.near, far))
    print(f"{num_near} of {num_far} chunks are near now: those of the level that was loaded")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # or "s3://bucket/prefix"
        main(open_store(folder))
