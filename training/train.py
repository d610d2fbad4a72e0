"""Train the reference model: one command, resumable, seeded.

    python training/train.py --data DIR --out DIR [--technical FILE] [--preset cpu|gpu] [--resume]

SIGTERM saves and ends it; --resume goes on, also with another number of --tokens.
Writes OUT/checkpoint.pt, OUT/log.csv and OUT/model (exported anew with every checkpoint).
"""

import argparse
import csv
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from corpus_tokens import Corpus, load_corpus, read_texts
from export import export_model
from initial import prepare
from learner import Learner, take_step
from presets import PRESETS, Preset
from probe import correct_answers, count_tokens_with, text_loss
from samples import Sampler, Stage
from tokenizer import train_tokenizer
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from cachegen.refmodel.tasks import generate

VOCAB_SIZE = 2048
WARM_UP_STEPS = 30
DECAY_SHARE = 0.2
CHECKPOINT_S = 240.0
PROBES = [(family, n) for n in (512, 1536, 4096) for family in ("passkey", "records", "topics")]


@dataclass(slots=True)
class Run:
    """A training run in progress."""

    model: Qwen3ForCausalLM
    tokenizer: PreTrainedTokenizerFast
    learner: Learner
    corpus: Corpus
    out: Path
    num_tokens: int
    seed: int
    seen_tokens: int = 0
    step: int = 0
    stopped: bool = False


def build_model(preset: Preset, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=preset.hidden_size,
        intermediate_size=preset.intermediate_size,
        num_hidden_layers=preset.num_layers,
        num_attention_heads=preset.num_heads,
        num_key_value_heads=preset.num_kv_heads,
        head_dim=preset.head_dim,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    prepare(model)
    return model


def stage_of(run: Run) -> Stage:
    share = run.seen_tokens / run.num_tokens
    stages = run.learner.preset.stages
    return next((s for s in stages if share < s.until_share), stages[-1])


def lr_factor(run: Run) -> float:
    """Warm up, stay, then decay linearly to 2% over the last part."""
    left = (1 - run.seen_tokens / run.num_tokens) / DECAY_SHARE
    return max(0.02, min(1.0, (run.step + 1) / WARM_UP_STEPS, left))


def advance(run: Run) -> list[float]:
    stage, preset = stage_of(run), run.learner.preset
    means = take_step(run.learner, stage, seed=f"{run.seed}/{run.step}", lr_factor=lr_factor(run))
    sequences = max(1, preset.micro_batch_tokens // stage.length)
    run.seen_tokens += preset.micro_batches * sequences * stage.length
    run.step += 1
    return means


def probe(run: Run, filler: str) -> dict[str, float]:
    count, row = count_tokens_with(run.tokenizer), {}
    run.model.eval()
    for family, n in PROBES:
        asked = [
            generate(family, num_tokens=n, seed=seed, count_tokens=count, filler=filler)
            for seed in range(2)
        ]
        right = [r for task in asked for r in correct_answers(run.model, run.tokenizer, task)]
        row[f"{family}_{n}"] = round(float(np.mean(right)), 3)
    row["valid_loss"] = round(text_loss(run.model, run.corpus.valid, length=512, num_windows=12), 4)
    run.model.train()
    return row


def save(run: Run) -> None:
    state = {
        "model": run.model.state_dict(),
        "momenta": run.learner.momenta,
        "adam": run.learner.adam.state_dict(),
        "seen_tokens": run.seen_tokens,
        "step": run.step,
    }
    torch.save(state, run.out / "checkpoint.tmp")
    (run.out / "checkpoint.tmp").rename(run.out / "checkpoint.pt")
    export_model(run.model, run.tokenizer, run.out / "model")


def restore(run: Run) -> None:
    state = torch.load(run.out / "checkpoint.pt", weights_only=True)
    run.model.load_state_dict(state["model"])
    run.learner.adam.load_state_dict(state["adam"])
    for index, momentum in state["momenta"].items():
        run.learner.momenta[index].copy_(momentum)
    run.seen_tokens, run.step = state["seen_tokens"], state["step"]


def log_row(run: Run, row: dict[str, float]) -> None:
    path = run.out / "log.csv"
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)
    print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)


def train(run: Run, filler: str, *, probe_steps: int) -> None:
    since, saved, means = time.monotonic(), time.monotonic(), []
    tokens_before = run.seen_tokens
    while run.seen_tokens < run.num_tokens and not run.stopped:
        means.append(advance(run))
        if run.step % probe_steps == 0 or run.seen_tokens >= run.num_tokens:
            rate = (run.seen_tokens - tokens_before) / (time.monotonic() - since)
            text, answer = np.mean(means, axis=0).round(4).tolist()
            row = {"step": run.step, "tokens": run.seen_tokens, "length": stage_of(run).length}
            row |= {"text_loss": text, "answer_loss": answer, "tokens_per_s": round(rate)}
            log_row(run, row | probe(run, filler))
            since, means, tokens_before = time.monotonic(), [], run.seen_tokens
        if time.monotonic() - saved > CHECKPOINT_S:
            save(run)
            saved = time.monotonic()
    save(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--technical", type=Path, help="technical English, from corpus.py")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--tokens", type=int, help="tokens to train on; default: the preset's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--probe-steps", type=int, default=100)
    parser.add_argument("--workers", type=int, default=0, help="processes; for CPUs: one per core")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    texts = read_texts(args.data, args.technical)
    if args.resume:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out / "model")
    else:
        excerpts = [texts[0][i : i + 20_000] for i in range(0, len(texts[0]), 200_000)]
        tokenizer = train_tokenizer([*excerpts, texts[0][-500_000:]], vocab_size=VOCAB_SIZE)
    corpus = load_corpus(tokenizer, texts)
    model = build_model(preset, tokenizer).to("cuda" if torch.cuda.is_available() else "cpu")
    learner = Learner(model, preset, Sampler(tokenizer, corpus))
    num_tokens = args.tokens or preset.num_tokens
    run = Run(model, tokenizer, learner, corpus, args.out, num_tokens, args.seed)
    if args.resume:
        restore(run)
    if args.workers:
        learner.start_workers(args.workers)
    signal.signal(signal.SIGTERM, lambda *_: setattr(run, "stopped", True))
    train(run, texts[1], probe_steps=args.probe_steps)


if __name__ == "__main__":
    main()
