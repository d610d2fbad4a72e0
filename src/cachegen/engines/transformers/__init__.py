"""Contexts of Hugging Face models: prefilled and stored once, loaded anywhere for `generate`.

`save_context` and `load_context` are what applications need; the rest is what calibration asks of a
model. Names are imported when they are first used; the list of them is in ``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
