"""What `cachegen serve` and its client add to plain GET, HEAD, PUT and DELETE.

No key contains ``~``, so that these paths hide no object; `RESERVED` paths are the server's.
"""

LOOKUP_PATH = "/~/lookup"
LIST_PATH = "/~/list"
RESERVED = ("healthz", "metrics")
PARENT_HEADER = "Cachegen-Parent"
# Arbitrary: 512 to 16,384 do. A request then takes 2 MiB at most.
MAX_LOOKUP_KEYS = 4096
