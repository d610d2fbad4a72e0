"""How conversations are put to models without a chat template: as CacheGen's test set has them."""

from cachegen.evaluation.datasets.prompts import Wrapping

VICUNA = Wrapping(
    head="A chat between a curious user and an artificial intelligence assistant. The assistant"
    " gives helpful, detailed, and polite answers to the user's questions. USER: ",
    tail=" ASSISTANT:",
)
