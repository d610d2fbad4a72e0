"""KV caches of long contexts: encoded small, stored anywhere, loaded fast.

    encode, decode      a KVCache to the bytes of one chunk, and back
    save, load          a context, in chunks, to a store and back
    open_store          a folder or URL as a Store
    calibrate           a Profile for a model, levels placed by measured quality

    MinTTFT, Fixed, ...  policies of a load; Controller, LoadState, Option for one of your own
    Store                the protocol that a store of your own follows

For Hugging Face models: ``cachegen.engines.transformers.save_context`` and ``load_context``.

Names are imported when they are first used, so that commands without tensors start at once; the
list of them is in ``__init__.pyi``.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("cachegen")
