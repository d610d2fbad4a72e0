"""What `cachegen serve` and its client add to plain GET, HEAD, PUT and DELETE.

No key contains ``~``, so that these paths hide no object; `RESERVED` paths are the server's.
"""

from dataclasses import dataclass

LOOKUP_PATH = "/~/lookup"
LIST_PATH = "/~/list"
USAGE_PATH = "/~/usage"
RESERVED = ("healthz", "metrics")
PARENT_HEADER = "Cachegen-Parent"
# On a GET, of whatever value: the object is looked at, and does not count as used.
PEEK_HEADER = "Cachegen-Peek"
# Arbitrary: 512 to 16,384 do. A request then takes 2 MiB at most.
MAX_LOOKUP_KEYS = 4096
# All keys of a listing: of a store of 3 TB at 300 kB an object. 10 million keys take some 1 GB in
# whoever keeps them. Arbitrary: 1 to 100 million does.
MAX_LISTED_KEYS = 10_000_000
# A listing of as many by our server takes a minute or two. Arbitrary: 300 to 3,600 s do.
LISTING_S = 600.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What somebody's objects are together; as JSON it has fields of the same names.

    Attributes:
        objects: how many there are.
        size_bytes: the bytes in them.
        counted_bytes: what they count with within a quota, which is more; None: nobody counts.
        quota_objects, quota_bytes: the most that there may be; None: no limit.
    """

    objects: int
    size_bytes: int
    counted_bytes: int | None = None
    quota_objects: int | None = None
    quota_bytes: int | None = None
