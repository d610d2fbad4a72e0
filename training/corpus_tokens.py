"""Natural text as tokens: read once from the data folder, kept as arrays of uint16."""

import json
import lzma
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

Tokens = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Training text as one array, its sentences for filler, and held-out text."""

    train: Tokens
    sentences: list[Tokens]
    valid: Tokens


def read_novels(path: Path) -> str:
    return re.sub(r"<<<[^>]*>>>\n", "", lzma.open(path, "rt", encoding="utf-8").read())


def read_texts(data: Path, technical: Path | None) -> tuple[str, str]:
    """Training text and held-out text."""
    novels = read_novels(data / "corpus/eltec-eng.train.txt.xz")
    lines = (data / "longchat/conversations.jsonl").read_text(encoding="utf-8").splitlines()
    talks = "\n".join(json.loads(line)["conversation"] for line in lines)
    extra = technical.read_text(encoding="utf-8") if technical else ""
    return "\n".join([novels, extra, talks]), read_novels(data / "corpus/eltec-eng.valid.txt.xz")


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[Tokens]:
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [np.array(encoding.ids, dtype=np.uint16) for encoding in encodings]


def load_corpus(
    tokenizer: PreTrainedTokenizerFast, texts: tuple[str, str], *, num_filler_chars: int = 8_000_000
) -> Corpus:
    train, valid = (text.split("\n") for text in texts)
    paragraphs = encode(tokenizer, [line + "\n" for line in train if line])
    step = max(1, len(texts[0]) // num_filler_chars)
    filler = [s for line in train[::step] for s in re.split(r"(?<=[.!?])\s+", line) if s]
    return Corpus(
        train=np.concatenate(paragraphs),
        sentences=encode(tokenizer, [f" {sentence}" for sentence in filler]),
        valid=np.concatenate(encode(tokenizer, [line + "\n" for line in valid if line])),
    )
