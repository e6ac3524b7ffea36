"""AWS Signature Version 4, for the requests that obstore has not: listings and conditional deletes.

Sources: "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)" (Amazon S3 API
reference) and the signing process of the AWS General Reference.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from storage_lib.backends.s3.credentials import Credential

UNRESERVED = "-._~"
_ALGORITHM = "AWS4-HMAC-SHA256"


def encode_path(key: str) -> str:
    """A key as it stands in the path of a URL."""
    return quote(key, safe="/" + UNRESERVED)


def encode_query(parameters: Mapping[str, str]) -> str:
    """Query parameters, sorted and encoded as the signature has them."""
    pairs = sorted(
        (quote(name, safe=UNRESERVED), quote(value, safe=UNRESERVED)) for name, value in parameters.items()
    )
    return "&".join(f"{name}={value}" for name, value in pairs)


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    credential: Credential,
    region: str,
    now: datetime | None = None,
) -> dict[str, str]:
    """The headers to send: ``headers`` with date, hash of the body and signature.

    :param url: with its path by `encode_path` and its query by `encode_query`.
    """
    parts = urlsplit(url)
    moment = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    signed = {name.lower(): value for name, value in headers.items()}
    signed |= {"host": parts.netloc, "x-amz-date": moment, "x-amz-content-sha256": digest}
    if credential.session_token:
        signed["x-amz-security-token"] = credential.session_token
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        (
            method,
            parts.path or "/",
            parts.query,
            *(f"{name}:{' '.join(signed[name].split())}" for name in sorted(signed)),
            "",
            names,
            digest,
        )
    )
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    text = "\n".join((_ALGORITHM, moment, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{credential.secret_access_key}".encode()
    for step in (moment[:8], region, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    who = f"Credential={credential.access_key_id}/{scope}"
    signed["authorization"] = f"{_ALGORITHM} {who},SignedHeaders={names},Signature={signature}"
    return signed
