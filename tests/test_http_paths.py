"""Keys in URLs, on the platform's host: every legal key has a URL, and `Location` is it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import azure.functions as func
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from functions.paths import object_key, object_location
from storage_lib.errors import InvalidKeyError
from storage_lib.keys import validate_user_key
from tests.http_app import PlatformApp
from tests.platform_host import received, route_values


def request(target: str) -> func.HttpRequest:
    """As the function of an object gets it."""
    found = received(target)
    assume(found is not None)
    assert found is not None
    values = route_values("objects/{*key}", found.path)
    assume(values is not None)
    return func.HttpRequest("PUT", found.url, params=found.query, route_params=values, body=b"")


def is_legal(key: str) -> bool:
    try:
        validate_user_key(key)
    except InvalidKeyError:
        return False
    return True


_TEXTS = "/,%,2,F,f,5,.,..,%25,%C3%BC,%FF,%00,+,&,=,?,#,;,:, ,<,[,é,ü,日,😀,a,objects,api,~,',{,^,`,|,key="
_PIECES = st.sampled_from([*_TEXTS.split(","), '"', ","])
KEYS = st.one_of(
    st.lists(_PIECES, min_size=1, max_size=9).map("".join), st.text(min_size=1, max_size=12)
).filter(is_legal)


def has_path(key: str) -> bool:
    return re.search("%[89a-fA-F][0-9a-fA-F]", key) is None


@given(KEYS)
@example("a%FFb")
@example("a%C3%BC")
@example("100%")
@example("objects/objects")
@example("a/%2")
def test_every_legal_key_has_a_location_that_leads_back_to_it(key: str) -> None:
    for target in (f"/api/objects/{quote(key)}", f"/api/objects?key={quote(key, safe='')}"):
        req = request(target)
        if has_path(key) or "?" in target:
            assert object_key(req) == key
        else:
            with pytest.raises(InvalidKeyError) as refused:
                object_key(req)
            assert "?key=" in str(refused.value.remedy)
            continue
        location = object_location(req, key)
        assert location.isascii()
        assert object_key(request(location)) == key
        assert location.count("/api/objects") == 1 + key.count("/api/objects")


@given(st.lists(st.one_of(_PIECES.map(lambda piece: quote(piece, safe="%/+&=;:")), _PIECES), max_size=9))
def test_whatever_is_sent_the_location_names_the_same_key(pieces: list[str]) -> None:
    req = request("/api/objects/" + "".join(pieces))
    try:
        key = object_key(req)
    except InvalidKeyError:
        return
    assert object_key(request(object_location(req, key))) == key


@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE"])
async def test_a_key_is_read_as_the_host_hands_it_over(platform_anywhere: PlatformApp, method: str) -> None:
    platform = platform_anywhere
    for sent, key in (
        ("a%2Fb", "a/b"),
        ("a%2fb", "a/b"),
        ("a%252Fb", "a/b"),
        ("a%25%32%46b", "a/b"),
        ("a%2541", "a%41"),
        ("a%25b", "a%b"),
        ("a%2525b", "a%25b"),
        ("a%2Bb", "a+b"),
        ("a+b", "a+b"),
        ("a%3Ab", "a:b"),
        ('a"b', 'a"b'),
        ("a[1]", "a[1]"),
        ("%C3%BCber", "über"),
        ("a/./b", "a/b"),
        ("x/../b", "b"),
        ("x/%2e%2e/b", "b"),
        ("OBJECTS/a", "OBJECTS/a"),
    ):
        await platform.storage.write(key, key.encode())
        answer = await platform(method, f"/api/objects/{sent}", b"new" if method == "PUT" else b"")
        assert answer.status in (200, 204), sent
        if method == "GET":
            assert answer.body == key.encode()


@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE"])
async def test_what_is_no_key_is_refused_by_the_app(platform: PlatformApp, method: str) -> None:
    for sent, has_remedy in (
        ("%FF", True),
        ("a%C0%AFb", True),
        ("a%25FFb", True),
        ("%E2%80", True),
        ("a%25C3%25BC", True),
        ("..%2fetc", False),
        ("a/..%2fb", False),
        ("a%2F%2Fb", False),
        ("a/", False),
    ):
        answer = await platform(method, f"/api/objects/{sent}", b"x")
        assert (answer.status, answer.function != "") == (400, True)
        if method != "HEAD":
            assert (answer.problem["code"], answer.problem["field"]) == ("invalid-key", "key")
            assert ("?key=" in answer.problem.get("remedy", "")) is has_remedy


async def test_a_key_without_a_path_is_reached_by_the_query(platform_anywhere: PlatformApp) -> None:
    platform = platform_anywhere
    key = "odd/a%FFb"
    target = "/api/objects?key=odd%2Fa%25FFb"
    made = await platform("PUT", target, b"1")
    assert (made.status, made.headers["location"]) == (201, "/api/objects?key=odd/a%25FFb")
    assert made.json["key"] == key
    assert (await platform("GET", made.headers["location"])).body == b"1"
    assert (await platform("HEAD", target)).headers["content-length"] == "1"
    assert (await platform("PUT", target, b"2", {"If-None-Match": "*"})).status == 412
    assert (await platform("DELETE", target)).status == 204
    assert (await platform("GET", target)).status == 404
    plain = await platform("PUT", "/api/objects?key=a/b%20c", b"3")
    assert plain.headers["location"] == "/api/objects/a/b%20c"
    for wrong, field in (
        ("/api/objects?key=a&prefix=b", "prefix"),
        ("/api/objects/a?key=b", "key"),
        ("/api/objects?key=../b", "key"),
        ("/api/objects?key=a%252Fb", "key"),
        ("/api/objects?key=%FF", "query"),
        ("/api/objects?prefix=%C3", "query"),
    ):
        answer = await platform("GET", wrong)
        assert (answer.status, answer.problem["field"]) == (400, field), wrong
    for method in ("PUT", "DELETE"):
        assert (await platform(method, "/api/objects", b"x")).problem["field"] == "key"


async def test_location_is_of_the_key_and_not_of_the_url(platform_anywhere: PlatformApp) -> None:
    platform = platform_anywhere
    for sent, location in (
        ("/api/objects/new%252Fkey", "/api/objects/new/key"),
        ("/api/objects/x/../new%2525b", "/api/objects/new%2525b"),
        ('/api/objects/new"b', "/api/objects/new%22b"),
        ("/API/Objects/new%25b", "/API/Objects/new%25b"),
    ):
        answer = await platform("PUT", sent, b"x")
        assert (answer.status, answer.headers["location"]) == (201, location)
        assert (await platform("GET", location)).body == b"x"
    task = b'{"action": "analyze_report", "agent_id": "a", "payload": {"report": "r"}}'
    made = await platform("POST", "/api/tasks/", task, {"Content-Type": "application/json"})
    assert made.headers["location"] == f"/api/tasks/{made.json['task_id']}"


async def test_no_file_is_touched_outside_of_the_data_folder(platform: PlatformApp, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    for sent in ("..%2f..%2fetc", "..%252f..%252fetc", "a%5C..%5Cb", "%2e%2e%5c", "a%0Ab"):
        assert (await platform("PUT", f"/api/objects/{sent}", b"x")).status == 400
    assert sorted(tmp_path.rglob("*")) == before


async def test_a_key_is_validated_once(platform: PlatformApp, monkeypatch: pytest.MonkeyPatch) -> None:
    from storage_lib import keys

    seen: list[str] = []
    real = keys._check

    def counting(key: str, what: str, *, prefix: bool) -> None:
        seen.append(key)
        real(key, what, prefix=prefix)

    monkeypatch.setattr(keys, "_check", counting)
    for method, body in (("PUT", b"1"), ("GET", b""), ("HEAD", b""), ("DELETE", b"")):
        seen.clear()
        assert (await platform(method, "/api/objects/a/b", body=body)).status < 300
        assert seen == ["a/b"], method
