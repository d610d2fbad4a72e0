"""The shipped model, and cases whose answers it gives."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from cachegen import refmodel
from cachegen.engines.transformers.arithmetic import Prefiller
from cachegen.evaluation.case import Case
from cachegen.evaluation.judge import Models

TOKENS = 300


@pytest.fixture(scope="session")
def models():
    folder = refmodel.weights_path()
    writer, reader = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        for dtype in ("auto", "float32")
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Models(writer, reader, tokenizer, Prefiller(writer, writer.dtype))


@pytest.fixture(scope="session")
def asking(models):
    """A question that the model answers rightly from an uncompressed cache."""
    text = refmodel.load_text("heldout-craik")[:700]
    fact = "The passkey of apple is 4821. "
    ids = models.tokenizer(f"{text} {fact}{text[:300]}", add_special_tokens=False).input_ids
    question = models.tokenizer("\nThe passkey of apple is", add_special_tokens=False).input_ids
    return Case(
        "passkey", "000", tuple(ids), tuple(question), ("4821",), most_new_tokens=6, score="number"
    )


@pytest.fixture(scope="session")
def reading(models):
    """Text that goes on."""
    text = refmodel.load_text("heldout-craik")[2000:6000]
    ids = models.tokenizer(text, add_special_tokens=False).input_ids
    return Case("novel", "000", tuple(ids[:TOKENS]), following=tuple(ids[TOKENS : TOKENS + 65]))
