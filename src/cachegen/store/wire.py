"""What our server and its client say to each other besides plain GET, HEAD, PUT and DELETE.

No key contains ``~``, so these paths are free; two more are the server's own.
"""

LOOKUP_PATH = "/~/lookup"
LIST_PATH = "/~/list"
RESERVED = ("healthz", "metrics")
PARENT_HEADER = "Cachegen-Parent"
MAX_LOOKUP_KEYS = 4096
