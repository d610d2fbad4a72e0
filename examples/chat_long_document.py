"""Chat over a long document: it is read once, and a new process answers from what was stored.

    python examples/chat_long_document.py

saves the document and starts itself again with `ask`; that process asks one question after the
other. A chat model is used in the same way, by its chat template.
"""

import subprocess
import sys
import tempfile
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cachegen.engines.transformers import load_context, save_context
from cachegen.refmodel import load_text, weights_path

PASSKEYS = {"amber": "4821", "lantern": "7350", "otter": "1296"}


def make_document() -> str:
    """Pages of a novel, and behind each page something to ask for."""
    novel, document = load_text("heldout-craik"), ""
    for number, (name, key) in enumerate(PASSKEYS.items()):
        page = novel[1500 * number :][:1500]
        document += f"{page} The passkey of {name} is {key}. "
    return document


def tokens_of(tokenizer, said: list[str]) -> list[int]:
    """A chat as tokens: what user and assistant said in turn, the document first."""
    if tokenizer.chat_template is None:  # the small model is no chat model
        return tokenizer("".join(said)).input_ids
    roles = ("user", "assistant")
    messages = [{"role": roles[turn % 2], "content": text} for turn, text in enumerate(said)]
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return encoded["input_ids"]


def save(model, tokenizer, store: str) -> None:
    """Prefill the document and store its cache."""
    began = time.perf_counter()
    manifest = save_context(model, tokens_of(tokenizer, [make_document()]), store=store)
    print(f"saved {manifest.num_tokens} tokens in {time.perf_counter() - began:.2f} s")


def ask(model, tokenizer, store: str) -> None:
    """Ask for every passkey; the chat grows, its beginning stays the stored document."""
    said = [make_document()]
    for name, key in PASSKEYS.items():
        question = f"\nThe passkey of {name} is"
        said = [said[0] + question] if len(said) == 1 else [*said, question]
        tokens = tokens_of(tokenizer, said)
        loaded = load_context(model, tokens, store=store)
        ids = torch.tensor([tokens])
        mask = torch.ones_like(ids)
        output = model.generate(
            ids, attention_mask=mask, past_key_values=loaded.cache, max_new_tokens=5
        )
        said.append(tokenizer.decode(output[0, len(tokens) :], skip_special_tokens=True))
        print(f"loaded {loaded.num_tokens} of {len(tokens)} tokens in {loaded.result.ttft_s:.3f} s")
        print(f"{name}?{said[-1]} ({'right' if key in said[-1] else 'wrong'})")


if __name__ == "__main__":
    model = AutoModelForCausalLM.from_pretrained(weights_path(), dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(weights_path())
    if sys.argv[1:2] == ["ask"]:
        ask(model, tokenizer, sys.argv[2])
    else:
        with tempfile.TemporaryDirectory() as store:
            save(model, tokenizer, store)
            subprocess.run([sys.executable, __file__, "ask", store], check=True)
