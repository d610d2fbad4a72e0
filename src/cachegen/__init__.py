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

import lazy_loader

_named, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    """Import what is used; reading the version of the package takes longer than all of this."""
    if name == "__version__":
        from importlib.metadata import version

        return version("cachegen")
    return _named(name)
