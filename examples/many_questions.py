"""Many questions at once, from one loaded context; then one of them with beams.

    python examples/many_questions.py

The context is loaded once. `batch_repeat_interleave` repeats its cache for every row of a batch, or
for every beam. Generation changes a cache, so each batch gets a copy of what was loaded.
"""

import copy
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cachegen.engines.transformers import load_context, save_context
from cachegen.refmodel import load_text, weights_path

PASSKEYS = {"amber": "4821", "lantern": "7350", "otter": "1296"}
QUESTIONS = [f"\nThe passkey of {name} is" for name in PASSKEYS] + [
    "\nI forgot it. What was it again? The passkey of otter is"
]


def make_document() -> str:
    """A page of a novel with passkeys behind it."""
    facts = " ".join(f"The passkey of {name} is {key}." for name, key in PASSKEYS.items())
    return f"{load_text('heldout-craik')[:1500]} {facts} And so it went on."


def make_batch(document: list[int], questions: list[list[int]]) -> dict[str, torch.Tensor]:
    """A row for each question; what fills up the shorter ones stands behind the document, masked.

    The document's tokens stay at the beginning of every row, where the cache has them.
    """
    longest = max(map(len, questions))
    gaps = [longest - len(question) for question in questions]
    rows = [document + [0] * gap + asked for gap, asked in zip(gaps, questions, strict=True)]
    masks = [[1] * len(document) + [0] * gap + [1] * (longest - gap) for gap in gaps]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}


def ask(model, tokenizer, loaded, batch: dict[str, torch.Tensor], *, beams: int = 1) -> list[str]:
    """The answers to all rows."""
    cache = copy.deepcopy(loaded.cache)
    cache.batch_repeat_interleave(len(batch["input_ids"]) * beams)
    output = model.generate(
        **batch, past_key_values=cache, max_new_tokens=5, do_sample=False, num_beams=beams
    )
    return tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :])


def main() -> None:
    """Save a document, load it once, ask everything."""
    model = AutoModelForCausalLM.from_pretrained(weights_path(), dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(weights_path())
    document = tokenizer(make_document()).input_ids
    questions = tokenizer(QUESTIONS, add_special_tokens=False).input_ids
    with tempfile.TemporaryDirectory() as store:
        save_context(model, document, store=store, levels=("high",))
        loaded = load_context(model, document, store=store)
    print(f"loaded {loaded.num_tokens} of {len(document)} tokens once")
    answers = ask(model, tokenizer, loaded, make_batch(document, questions))
    for question, answer in zip(QUESTIONS, answers, strict=True):
        print(f"{question.strip()}{answer}")
    (best,) = ask(model, tokenizer, loaded, make_batch(document, questions[:1]), beams=3)
    print(f"with 3 beams: {QUESTIONS[0].strip()}{best}")


if __name__ == "__main__":
    main()
