"""Who computed a cache: one digest for a model's weights, configuration, adapters and type."""

from __future__ import annotations

import hashlib

from transformers import PreTrainedModel

from cachegen.engines.transformers.identity.adapters import bare_name, outside
from cachegen.engines.transformers.identity.settings import modules_digest, settings_digest
from cachegen.engines.transformers.identity.weights import weights_digest
from cachegen.engines.transformers.model import adapter_wrapper, plain_model


def fingerprint(model: PreTrainedModel, *, fresh: bool = False) -> bytes:
    """SHA-256 over everything that decides which keys and values a text gets, as it is in memory.

    That is: the configuration as far as it differs from its class's defaults; every byte of the
    parameters, buffers and packed weights; the classes of modules and the numbers they hold;
    adapters with their state and scale; automatic mixed precision. Wrappers of `torch.compile`, and
    adapters that take no part, change nothing.

    All weights are read once, at 1.3 to 1.7 GB/s a core (x86-64 with SHA extensions: 16 GB of an
    8 B model take 5 s on two cores, by benchmarks/identity.py), and the digest is kept. Later calls
    notice writes that PyTorch counts, and tensors that were replaced. Of writes behind its
    back (through `.data`, NumPy or a foreign library, or to weights made in inference mode) they
    see tensors of up to 64 KiB whole and 512 places of each larger one, one drawn in each of 512
    equal parts: a write to n of its N elements is missed with a probability of at most
    exp(-512 n / N), one to N / 256 or more neighbours never. Rotation frequencies count as
    configured up to a millionth, which is what processors differ by. Files of weights offloaded to
    disk are taken to stay as they are.

    What is not seen: hooks, functions that were replaced, edits by hand that are neither tensors
    nor numbers. Pass `extra=` with every save and load where such things differ.

    Args:
        model: a transformers model, wrapped or not.
        fresh: read all weights anew.

    Raises:
        UnsupportedCache: weights that are nowhere, or prompt and prefix tuning.
    """
    wrapper, model = adapter_wrapper(model), plain_model(model)
    modules = dict(model.named_modules())
    digest = hashlib.sha256(settings_digest(model, modules))
    digest.update(modules_digest(modules, bare_name(modules)))
    if wrapper is not None:
        modules = {**modules, **outside(wrapper, modules)}
    digest.update(weights_digest(model, modules, fresh=fresh))
    return digest.digest()
