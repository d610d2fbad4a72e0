"""KV caches of long contexts: encoded small, stored anywhere, loaded fast.

    encode, decode      a KVCache to the bytes of one chunk, and back
    save, load          a context, in chunks, to a store and back
    open_store          a folder or URL as a Store
    calibrate           a Profile for a model, levels placed by measured quality

For Hugging Face models: ``cachegen.engines.transformers.save_context`` and ``load_context``.

Names are imported when they are first used, so that what needs no tensors starts at once; the
list of them is in ``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
