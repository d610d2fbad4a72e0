"""A folder shared by two processes: each reads on from what the other has stored.

    python examples/shared_folder.py [FOLDER]

The folder may lie on a network disk; nothing has to be locked. Contexts are cut into chunks with
names derived from model and tokens, so what is there already is neither computed nor stored again.
"""

import multiprocessing
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cachegen import open_store
from cachegen.engines.transformers import load_context, save_context
from cachegen.refmodel import load_text, weights_path

LEVELS = ("high", "lossless")


def read_model():
    """The model and the document's tokens; in its second half there is something to ask for."""
    model = AutoModelForCausalLM.from_pretrained(weights_path(), dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(weights_path())
    novel = load_text("heldout-anstey")
    document = f"{novel[:1500]} The passkey of amber is 4821. {novel[1500:2000]}"
    return model, tokenizer, tokenizer(document).input_ids


def save(folder: str, model, tokens: list[int], *, who: str) -> None:
    """Store a context, and tell how many chunks that took."""
    store = open_store(folder)
    before = set(store.list("chunks"))
    save_context(model, tokens, store=store, levels=LEVELS, chunk_tokens=128)
    new = set(store.list("chunks")) - before
    print(
        f"{who}: {len(tokens)} tokens, {len(before)} objects were there, {len(new)} new", flush=True
    )


def extend(folder: str) -> None:
    """What the second process does: it finds the beginning, and stores the whole document."""
    model, _, document = read_model()
    found = load_context(model, document, store=folder)
    print(f"second process: found {found.num_tokens} of {len(document)} tokens", flush=True)
    save(folder, model, document, who="second process")


def main(folder: str) -> None:
    """Store a beginning, let another process store the rest, then ask about the rest."""
    model, tokenizer, document = read_model()
    save(folder, model, document[:384], who="first process")
    second = multiprocessing.get_context("spawn").Process(target=extend, args=(folder,))
    second.start()
    second.join()
    question = tokenizer("\nThe passkey of amber is", add_special_tokens=False).input_ids
    ids = torch.tensor([document + question])
    loaded = load_context(model, ids, store=folder)
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), past_key_values=loaded.cache, max_new_tokens=5
    )
    answer = tokenizer.decode(output[0, ids.shape[1] :]).strip()
    print(f"first process: loaded {loaded.num_tokens} of {ids.shape[1]} tokens; amber? {answer}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(sys.argv[1] if sys.argv[1:] else temporary)
