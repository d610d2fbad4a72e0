"""Requests to S3, signed by obstore in their query, without a look at the network.

Credentials are looked for by obstore as for all its requests, and asked for anew when they expire.
"""

from __future__ import annotations

from datetime import timedelta

import obstore

from cachegen.errors import StoreError
from cachegen.store.buckets.backend import Backend, is_true, opened, settings
from cachegen.store.buckets.request import BucketRequest
from cachegen.store.failures import translated

# As long as S3 takes a request that is signed in its headers, so that clocks may differ by as much.
_VALID = timedelta(minutes=15)
# These ask for headers, and S3 takes those only where the signature covers them.
_NEED_HEADERS = (
    "aws_server_side_encryption",
    "aws_sse_kms_key_id",
    "aws_sse_bucket_key_enabled",
    "aws_sse_customer_key_base64",
)


class SignedRequests:
    """Writes requests to a bucket of S3."""

    def __init__(self, name: str, *, timeout_s: float) -> None:
        """Read the settings; nothing is asked.

        Raises:
            StoreError: they are not complete, or not supported.
        """
        found = settings(name)
        for key in _NEED_HEADERS:
            if key in found:
                raise StoreError(
                    f"{name}: {key.upper()} is not supported; set the encryption of the bucket "
                    "instead, which then holds for all that is put there"
                )
        if is_true(found.get("aws_s3_express", "")):
            raise StoreError(f"{name}: AWS_S3_EXPRESS is not supported")
        self._name = name
        self._is_anonymous = is_true(found.get("aws_skip_signature", ""))
        self._can_create = found.get("aws_conditional_put") != "disabled"
        nobody = {"access_key_id": "nobody", "secret_access_key": "nobody"}
        self._backend: Backend = opened(
            name, timeout_s=timeout_s, config=nobody if self._is_anonymous else None
        )

    def write(
        self, method: str, key: str, *, range: tuple[int, int] | None, body: memoryview | None
    ) -> BucketRequest:
        """See `Writer.write`."""
        if method == "PUT" and not self._can_create:
            raise StoreError(f"{self._name}: cannot put {key}: AWS_CONDITIONAL_PUT is disabled")
        with translated(self._name, f"sign a request for {key}"):
            url = obstore.sign(self._backend, method, key, _VALID)  # type: ignore[call-overload]
        if self._is_anonymous:
            url = url.partition("?")[0]
        headers = {} if range is None else {"Range": f"bytes={range[0]}-{range[1] - 1}"}
        if body is not None:
            headers |= {"Content-Length": str(len(body)), "If-None-Match": "*"}
        return BucketRequest(method, url, headers, body)
