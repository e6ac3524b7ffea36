"""Tokens: only genuine ones, of the issuer, for this app and in time, are believed."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from storage_lib.access import tokens as module
from storage_lib.access.tokens import InvalidTokenError, Tokens
from storage_lib.errors import ConfigurationError, StorageUnavailableError

ISSUER = "https://login.microsoftonline.com/tenant/v2.0"
KEY = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
CURVE = ec.generate_private_key(ec.SECP256R1())


def public(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    algorithm = jwt.algorithms.ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else None
    found = (algorithm or jwt.algorithms.RSAAlgorithm).to_jwk(key.public_key(), as_dict=True)  # type: ignore[attr-defined]
    return {**found, "kid": kid, "use": "sig", **more}


class Issuer:
    """Publishes keys, and counts how often they are read."""

    def __init__(self, issuer: str = ISSUER) -> None:
        self.issuer = issuer
        self.keys = [public(KEY, "1"), public(CURVE, "2"), {"kty": "oct", "kid": "3", "k": "c2VjcmV0"}]
        self.reads = 0
        self.broken = False

    async def fetch(self, address: str) -> bytes:
        if self.broken:
            raise OSError("unreachable")
        if address.endswith("/.well-known/openid-configuration"):
            return json.dumps({"issuer": self.issuer, "jwks_uri": "https://keys.example/keys"}).encode()
        assert address == "https://keys.example/keys"
        self.reads += 1
        return json.dumps({"keys": self.keys}).encode()

    def tokens(self) -> Tokens:
        return Tokens(ISSUER, ["api://app"], self.fetch)


def token(key: Any = KEY, kid: str = "1", algorithm: str = "RS256", **claims: Any) -> str:
    given = {"iss": ISSUER, "aud": "api://app", "exp": time.time() + 300, "oid": "me", "sub": "sub"} | claims
    given = {name: value for name, value in given.items() if value is not None}
    return signed(given, key, algorithm, kid=kid)


def signed(claims: Any, key: Any = KEY, algorithm: str = "RS256", **head: Any) -> str:
    """`jwt.encode` refuses claims that make no sense."""
    return jwt.api_jws.encode(json.dumps(claims).encode(), key, algorithm, head)


async def test_a_genuine_token_names_its_principals() -> None:
    tokens = Issuer().tokens()

    assert await tokens.principals(token()) == ("aad:me",)
    assert await tokens.principals(token(CURVE, "2", "ES256")) == ("aad:me",)
    assert await tokens.principals(token(algorithm="PS256")) == ("aad:me",)
    found = await tokens.principals(token(aud=["x", "api://app"], roles=["Reader", "R"], groups=["g"]))
    assert found == ("aad:me", "role:Reader", "role:R", "group:g")
    assert await tokens.principals(token(oid="a b\u00e9%")) == ("aad:a%20b%C3%A9%25",)


async def test_other_issuers_name_the_subject() -> None:
    issuer = Issuer("https://id.example")
    tokens = Tokens("https://id.example", ["api://app"], issuer.fetch)
    assert await tokens.principals(token(iss="https://id.example", sub="auth0|1")) == ("oidc:auth0|1",)


async def test_a_token_of_version_1_of_entra_names_the_object_id() -> None:
    name = "https://sts.windows.net/tenant/"
    found = await Tokens(name, ["api://app"], Issuer(name).fetch).principals(token(iss=name))
    assert found == ("aad:me",)


@pytest.mark.parametrize("published", ["https://id.example", "https://id.example/"])
@pytest.mark.parametrize("given", ["https://id.example", "https://id.example/"])
async def test_a_slash_at_the_end_of_an_issuer_may_be_forgotten(given: str, published: str) -> None:
    tokens = Tokens(given, ["api://app"], Issuer(published).fetch)
    assert await tokens.principals(token(iss=published)) == ("oidc:sub",)
    for other in ("https://id.example//", "https://id.example.org", "https://id.exampl"):
        with pytest.raises(InvalidTokenError):
            await tokens.principals(token(iss=other))


def unsigned() -> str:
    _head, body, _ = token().split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT","kid":"1"}').decode().rstrip("=")
    return f"{none}.{body}."


def by_public_key() -> str:
    """Signed with the published key as a shared secret, as if that were the algorithm."""
    import hashlib
    import hmac

    secret = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _, body, _ = token().split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"1"}').decode().rstrip("=")
    mark = hmac.digest(secret, f"{head}.{body}".encode(), hashlib.sha256)
    return f"{head}.{body}.{base64.urlsafe_b64encode(mark).decode().rstrip('=')}"


def changed() -> str:
    head, body, mark = token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    other = base64.urlsafe_b64encode(json.dumps(claims | {"oid": "boss"}).encode()).decode().rstrip("=")
    return f"{head}.{other}.{mark}"


FALSE = {
    "nonsense": lambda: "nonsense",
    "empty": lambda: "",
    "unsigned": unsigned,
    "signed with the published key": by_public_key,
    "changed": changed,
    "another's key": lambda: token(OTHER),
    "an unknown key": lambda: token(OTHER, "9"),
    "a shared secret": lambda: token("secret" * 8, "3", "HS256"),
    "another issuer": lambda: token(iss="https://login.microsoftonline.com/other/v2.0"),
    "no issuer": lambda: token(iss=None),
    "another app": lambda: token(aud="api://other"),
    "no audience": lambda: token(aud=None),
    "expired": lambda: token(exp=time.time() - 120),
    "no end": lambda: token(exp=None),
    "not yet": lambda: token(nbf=time.time() + 600),
    "nobody": lambda: token(oid=None),
    "no text": lambda: token(oid=7),
    "too long": lambda: token(x="x" * 20_000),
}


@pytest.mark.parametrize("case", FALSE)
async def test_any_other_is_refused(case: str) -> None:
    with pytest.raises(InvalidTokenError) as told:
        await Issuer().tokens().principals(FALSE[case]())
    assert told.value.remedy


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [1000.0]

    class Time:
        @staticmethod
        def monotonic() -> float:
            return now[0]

    monkeypatch.setattr(module, "time", Time)
    return now


async def test_keys_are_kept_and_a_new_one_is_found(clock: list[float]) -> None:
    issuer = Issuer()
    tokens = issuer.tokens()
    for _ in range(3):
        await tokens.principals(token())
    assert issuer.reads == 1
    issuer.keys.append(public(OTHER, "4"))
    for _ in range(3):  # Whoever sends tokens with keys that nobody knows makes no requests.
        with pytest.raises(InvalidTokenError):
            await tokens.principals(token(OTHER, "4"))
    assert issuer.reads == 1
    clock[0] += 61
    assert await tokens.principals(token(OTHER, "4")) == ("aad:me",)
    assert issuer.reads == 2
    issuer.keys.pop()
    clock[0] += 25 * 3600
    await tokens.principals(token())
    with pytest.raises(InvalidTokenError):
        await tokens.principals(token(OTHER, "4"))  # It was withdrawn.


async def test_an_issuer_that_cannot_be_reached_is_no_false_token(clock: list[float]) -> None:
    issuer = Issuer()
    tokens = issuer.tokens()
    issuer.broken = True
    for _ in range(2):
        with pytest.raises(StorageUnavailableError):
            await tokens.principals(token())
    issuer.broken = False
    clock[0] += 6
    assert await tokens.principals(token()) == ("aad:me",)
    issuer.broken = True
    clock[0] += 25 * 3600
    assert await tokens.principals(token()) == ("aad:me",)  # The keys it had are still good.


async def test_a_document_of_another_issuer_is_not_believed() -> None:
    issuer = Issuer("https://elsewhere.example")
    with pytest.raises(StorageUnavailableError, match="another issuer"):
        await Tokens(ISSUER, ["api://app"], issuer.fetch).principals(token())


@pytest.mark.parametrize("issuer", ["http://id.example", "id.example", "file:///etc", ""])
def test_an_issuer_is_asked_over_https(issuer: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        Tokens(issuer, ["a"])
    assert told.value.field == "AGENT_STORAGE_ACCESS_ISSUER"
    with pytest.raises(ConfigurationError):
        Tokens(ISSUER, [])


def with_head(head: bytes) -> str:
    _, body, signature = token().split(".")
    return f"{base64.urlsafe_b64encode(head).decode().rstrip('=')}.{body}.{signature}"


ODD = {
    "deep": with_head(b'{"alg":"RS256","kid":"1","x":' + b"[" * 6000 + b"]" * 6000 + b"}"),
    "many digits": with_head(b'{"alg":"RS256","kid":"1","x":' + b"1" * 5000 + b"}"),
    "no object": with_head(b"[]"),
    "not UTF-8": with_head(b"\xff"),
    "claims that are no object": signed([1], kid="1"),
    "a number as kid": with_head(b'{"alg":"RS256","kid":1}'),
    "a list as kid": with_head(b'{"alg":"RS256","kid":["1"]}'),
    "a list as alg": with_head(b'{"alg":["RS256"],"kid":"1"}'),
    "critical": signed({}, kid="1", crit=["x"], x=1),
    "a surrogate": "\ud800.a.b",
    "not ASCII": "\u20ac.a.b",
    "a time that never comes": token(exp=float("inf")),
    "no number": token(exp=float("nan")),
    "a list as time": token(exp=[1]),
    "an object as issuer": token(iss={"a": 1}),
    "a list as issuer": token(iss=[ISSUER]),
    "an object as audience": token(aud={"api://app": 1}),
    "a subject that is a list": token(oid=["me"]),
    "a subject of many characters": token(oid="m" * 300),
    "a key in it": signed({}, OTHER, kid="x", jwk=public(OTHER, "x")),
}


@pytest.mark.parametrize("case", ODD)
async def test_an_odd_token_is_refused_and_no_error_of_the_app(case: str) -> None:
    with pytest.raises(InvalidTokenError):
        await Issuer().tokens().principals(ODD[case])


async def test_a_role_cannot_be_another_kind_of_principal() -> None:
    found = await Issuer().tokens().principals(token(oid="key:ceo", roles=["a key:ceo", 1, None], groups="g"))
    assert found == ("aad:key:ceo", "role:a%20key:ceo", "group:g")


@pytest.mark.parametrize(
    "broken",
    [
        None,
        1,
        [],
        {"kty": ["RSA"]},
        {"kty": "RSA"},
        {"kty": "RSA", "n": 1, "e": None},
        {"kty": "EC", "crv": "x"},
    ],
    ids=str,
)
async def test_a_broken_key_of_the_issuer_does_not_spoil_the_others(broken: Any) -> None:
    issuer = Issuer()
    issuer.keys.insert(0, broken)
    assert await issuer.tokens().principals(token()) == ("aad:me",)


@pytest.mark.parametrize("error", [http.client.IncompleteRead(b""), RecursionError(), EOFError()], ids=repr)
async def test_an_issuer_that_fails_in_any_way_is_not_asked_by_each_request(
    error: Exception, clock: list[float]
) -> None:
    asked: list[str] = []

    async def fetch(address: str) -> bytes:
        asked.append(address)
        raise error

    tokens = Tokens(ISSUER, ["api://app"], fetch)
    for _ in range(3):
        with pytest.raises(StorageUnavailableError):
            await tokens.principals(token())
    assert len(asked) == 1


async def test_keys_at_an_address_that_is_not_https_are_not_read(clock: list[float]) -> None:
    asked: list[str] = []

    async def fetch(address: str) -> bytes:
        asked.append(address)
        return json.dumps({"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"}).encode()

    tokens = Tokens(ISSUER, ["api://app"], fetch)
    for _ in range(3):
        with pytest.raises(StorageUnavailableError):
            await tokens.principals(token())
    assert len(asked) == 1


async def test_while_old_keys_are_read_again_requests_go_on(clock: list[float]) -> None:
    issuer = Issuer()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def fetch(address: str) -> bytes:
        begun.set()
        await go_on.wait()
        return await issuer.fetch(address)

    tokens = Tokens(ISSUER, ["api://app"], fetch)
    go_on.set()
    await tokens.principals(token())
    begun.clear()
    go_on.clear()
    clock[0] += 25 * 3600
    first = asyncio.create_task(tokens.principals(token()))
    await asyncio.wait_for(begun.wait(), 120)
    assert await asyncio.wait_for(tokens.principals(token()), 120) == ("aad:me",)
    go_on.set()
    assert await first == ("aad:me",)


async def test_no_redirect_leads_to_an_address_that_is_not_https() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://keys.invalid/\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        issuer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(StorageUnavailableError, match="not https"):
            await Tokens(issuer, ["api://app"]).principals(token())
