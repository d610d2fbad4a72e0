from tests.toy import store, toy

__all__ = ["store", "toy"]
