"""Contexts unlike any calibration text: does the default level keep its bound on them?"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cachegen
from cachegen.bitstream.chunk import decode, describe, encode
from cachegen.codec.codec import resolve_level
from cachegen.codec.levels import PROMISED_KL
from cachegen.codec.profile import Profile
from cachegen.engines.transformers.quality import as_dtype, evaluator
from cachegen.engines.transformers.tasks import first_tokens
from cachegen.engines.transformers.text_windows import Window
from cachegen.evaluation.coder import Tokens
from cachegen.kvcache import KVCache
from rate.texts import CONTEXT_TOKENS, CONTINUATION_TOKENS, token_ids

_CHARACTERS = 12 * (CONTEXT_TOKENS + CONTINUATION_TOKENS)
CHINESE = (
    "春天来了。河边的柳树发出了新芽。",
    "他每天早上六点起床。先去公园跑步。",
    "这座城市有三百多年的历史。许多老房子还在。",
    "请把窗户关上。外面的风太大了。",
    "昨天晚上我们一起吃饭。谈到了明年的计划。",
    "科学家发现。海水的温度比十年前高了不少。",
    "小明把书放进书包。然后跑着去上学。",
    "火车晚点了两个小时。大家都很着急。",
    "这本书讲的是一个渔夫和他儿子的故事。",
    "如果明天下雨。我们就在家里看电影。",
    "老师说。学习语言最重要的是多听多说。",
    "市场里的苹果很便宜。一公斤只要五块钱。",
    "山上的雪还没有化。路很难走。",
    "奶奶做的饺子最好吃。每次我都吃很多。",
    "经过长时间的讨论。他们终于达成了协议。",
    "电脑的价格越来越低。用的人也越来越多。",
    "夜里突然停电了。整条街一片漆黑。",
    "医生建议他少喝酒。多吃蔬菜和水果。",
    "孩子们在院子里放风筝。笑声传得很远。",
    "这个问题没有简单的答案。需要慢慢研究。",
)


@dataclass(frozen=True, slots=True)
class Hostile:
    """A kind of input at the default level.

    Attributes:
        coded_as: codecs of its chunks, with the level whose numbers they were coded with.
        kl: nats per token over the continuation, of the context where it is largest.
        mean_kl: over all contexts.
        bound: what the level promises, nats per token.
    """

    input: str
    coded_as: str
    kl: float
    mean_kl: float
    bound: float
    bits_per_value: float


def hostile(model: Any, tokenizer: Any, profile: Profile, *, contexts: int) -> list[Hostile]:
    """Every kind of input, each by several contexts of its own seed."""
    return [
        _measure(model, profile, name, [window(make, tokenizer, seed) for seed in range(contexts)])
        for name, make in INPUTS.items()
    ]


def _measure(model: Any, profile: Profile, name: str, windows: Sequence[Window]) -> Hostile:
    coded: list[bytes] = []
    num_values, dtype = 0, profile.geometry.dtype

    def roundtrip(kv: KVCache, tokens: Tokens) -> KVCache:
        nonlocal num_values
        coded.append(encode(as_dtype(kv, dtype), tokens=tokens, profile=profile))
        num_values += kv.num_values
        return as_dtype(decode(coded[-1], tokens=tokens, profile=profile), kv.dtype)

    judge = evaluator(model, {str(index): [window] for index, window in enumerate(windows)})
    kls = [quality.kl for quality in judge(roundtrip).values()]
    return Hostile(
        input=name,
        coded_as=" + ".join(sorted({coded_as(data, profile) for data in coded})),
        kl=max(kls),
        mean_kl=sum(kls) / len(kls),
        bound=resolve_level(profile, None).bound or PROMISED_KL,
        bits_per_value=8 * sum(map(len, coded)) / num_values,
    )


def coded_as(data: bytes, profile: Profile) -> str:
    """The codec of a chunk, and the rung of the profile's ladder it was coded on."""
    chunk = describe(data).chunk
    if "rung" not in chunk.arrays:
        return chunk.codec
    return f"{chunk.codec} {profile.levels[int(chunk.arrays['rung'][0])].name}"


def window(
    make: Callable[[Any, random.Random], Sequence[int]], tokenizer: Any, seed: int
) -> Window:
    """A context of one of `INPUTS` and what follows it."""
    first = first_tokens(tokenizer)
    body = CONTEXT_TOKENS - len(first)
    ids = make(tokenizer, random.Random(seed))[: body + CONTINUATION_TOKENS + 1]
    return Window((*first, *ids[:body]), tuple(ids[body:]))


def _base64(tokenizer: Any, rng: random.Random) -> Sequence[int]:
    return token_ids(tokenizer, base64.b64encode(rng.randbytes(_CHARACTERS)).decode())


def _random_tokens(tokenizer: Any, rng: random.Random) -> Sequence[int]:
    special = set(tokenizer.all_special_ids)
    usual = [token for token in range(len(tokenizer)) if token not in special]
    return rng.choices(usual, k=CONTEXT_TOKENS + CONTINUATION_TOKENS)


def _chinese(tokenizer: Any, rng: random.Random) -> Sequence[int]:
    return token_ids(tokenizer, "".join(rng.choices(CHINESE, k=200)))


def _source_code(tokenizer: Any, rng: random.Random) -> Sequence[int]:
    files = sorted(Path(cachegen.__file__).parent.rglob("*.py"))
    rng.shuffle(files)
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return token_ids(tokenizer, text[:_CHARACTERS])


def _one_token(tokenizer: Any, rng: random.Random) -> Sequence[int]:
    return [*_random_tokens(tokenizer, rng)[:1]] * (CONTEXT_TOKENS + CONTINUATION_TOKENS)


INPUTS: dict[str, Callable[[Any, random.Random], Sequence[int]]] = {
    "base64": _base64,
    "random tokens": _random_tokens,
    "chinese": _chinese,
    "source code": _source_code,
    "one repeated token": _one_token,
}
