"""The toy model and its stores."""

from tests.toy import intercept, store, toy

__all__ = ["intercept", "store", "toy"]
