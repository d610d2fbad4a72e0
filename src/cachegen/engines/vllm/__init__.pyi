from .connector import CacheGenConnector

__all__ = ["CacheGenConnector"]
