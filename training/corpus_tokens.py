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
    """Training text, the places in it where a sentence has just ended, and held-out text."""

    train: Tokens
    sentence_ends: NDArray[np.int64]
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


def load_corpus(tokenizer: PreTrainedTokenizerFast, texts: tuple[str, str]) -> Corpus:
    train, valid = (
        np.concatenate(encode(tokenizer, [line + "\n" for line in text.split("\n") if line]))
        for text in texts
    )
    vocabulary = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    ends = np.array([token.endswith((".", "!", "?")) for token in vocabulary])
    return Corpus(train, np.flatnonzero(ends[train]) + 1, valid)
