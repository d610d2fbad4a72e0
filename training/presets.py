"""Sizes and curricula: what is trained for how long, on sequences of what length and kind."""

from dataclasses import dataclass

from samples import Stage


@dataclass(frozen=True, slots=True)
class Preset:
    """Everything a run is made of but its data, seed and number of tokens."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    micro_batch_tokens: int
    micro_batches: int
    num_tokens: int
    muon_lr: float
    adam_lr: float
    autocast: bool
    stages: tuple[Stage, ...]


CPU = Preset(
    hidden_size=256,
    intermediate_size=512,
    num_layers=6,
    num_heads=8,
    num_kv_heads=2,
    head_dim=32,
    micro_batch_tokens=512,
    micro_batches=4,
    num_tokens=10_000_000,
    muon_lr=0.005,
    adam_lr=0.002,
    autocast=False,
    stages=(
        Stage(0.07, 256, text=0.20, drill=0.50, passkey=0.15, records=0.15),
        Stage(0.14, 256, text=0.20, drill=0.15, passkey=0.40, records=0.25),
        Stage(0.30, 512, text=0.40, passkey=0.25, records=0.15, lines=0.20),
        Stage(0.52, 1024, text=0.45, passkey=0.25, records=0.15, lines=0.15, recall_share=0.35),
        Stage(0.70, 1536, text=0.45, passkey=0.25, records=0.15, lines=0.15, recall_share=0.3),
        Stage(
            0.90, 2048, text=0.5, passkey=0.2, records=0.1, lines=0.1, topics=0.1, recall_share=0.3
        ),
        Stage(
            1.00, 4096, text=0.5, passkey=0.2, records=0.1, lines=0.1, topics=0.1, recall_share=0.3
        ),
    ),
)

GPU = Preset(
    hidden_size=320,
    intermediate_size=704,
    num_layers=8,
    num_heads=10,
    num_kv_heads=2,
    head_dim=32,
    micro_batch_tokens=65_536,
    micro_batches=2,
    num_tokens=1_000_000_000,
    muon_lr=0.02,
    adam_lr=0.003,
    autocast=True,
    stages=(
        Stage(0.10, 512, text=0.30, drill=0.30, passkey=0.15, records=0.15, lines=0.1),
        Stage(0.40, 1024, text=0.4, passkey=0.2, records=0.1, lines=0.2, topics=0.1),
        Stage(0.80, 2048, text=0.4, passkey=0.2, records=0.1, lines=0.2, topics=0.1),
        Stage(1.00, 8192, text=0.4, passkey=0.2, records=0.1, lines=0.2, topics=0.1),
    ),
)

PRESETS = {"cpu": CPU, "gpu": GPU}
