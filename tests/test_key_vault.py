"""Data keys wrapped by Azure Key Vault: the vendor's client talks to a vault on this machine."""

from __future__ import annotations

import asyncio
import base64
import copy
import logging
import os
import pickle
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.keyvault.keys._shared import HttpChallengeCache

from storage_lib import StorageConfig, StorageManager
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config.encryption import EncryptionOptions, Wrapped, parsed_keys
from storage_lib.encryption import main, new_key, new_wrapped_key
from storage_lib.errors import (
    AccessDeniedError,
    BackendClosedError,
    ConfigurationError,
    NotPortableError,
    StorageError,
    StorageUnavailableError,
)
from storage_lib.layers.encryption import EncryptionLayer, KeyRing, Vault, ring_of
from storage_lib.layers.encryption import vault as vault_module
from storage_lib.layers.encryption.keys import FileKeys
from tests.conftest import PROJECT
from tests.http_app import serve
from tests.key_vault import OAEP, TOKEN, StubVault, error, resolved_here

KEY = "https://stub.vault.azure.net/keys/data-keys"
PLAIN = "old:" + base64.b64encode(bytes(32)).decode()


class Identity:
    """A credential that counts what it is asked for."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.scopes: list[str] = []

    async def get_token(self, *scopes: str, **_: object) -> AccessToken:
        self.scopes += scopes
        if self.failure is not None:
            raise self.failure
        return AccessToken(TOKEN, int(time.time()) + 3600)


class SyncIdentity(Identity):
    def get_token(self, *scopes: str, **_: object) -> AccessToken:  # type: ignore[override]
        self.scopes += scopes
        return AccessToken(TOKEN, int(time.time()) + 3600)


@pytest.fixture
async def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StubVault]:
    monkeypatch.setattr("socket.getaddrinfo", resolved_here)
    monkeypatch.setattr(vault_module, "_PAUSES", (0.01, 0.01, 0.01))
    # The SDK keeps what a host and port have challenged, and a port may be that of an earlier test.
    HttpChallengeCache.clear()
    async with StubVault(tmp_path) as stub:
        yield stub


def client(vault: StubVault, identity: Identity | None = None, key: str | None = None) -> Vault:
    return Vault(key or vault.key, credential=identity or Identity(), verify=str(vault.certificate))


async def wrapped(vault: StubVault, key_id: str = "now") -> str:
    return await new_wrapped_key(vault.key, key_id, Identity(), verify=str(vault.certificate))


def options(vault: StubVault, *entries: str, **more: Any) -> EncryptionOptions:
    return EncryptionOptions(keys=",".join(entries), key_vault_key=vault.key, **more)


def layer(vault: StubVault, given: EncryptionOptions, inner: MemoryBackend | None = None) -> EncryptionLayer:
    return EncryptionLayer(inner or MemoryBackend(), given, ring_of(given, client(vault)))


async def secret(ring: KeyRing) -> bytes:
    return (await ring.current()).extract(b"")


# -- what is asked, and how often


async def test_100_concurrent_loads_make_one_unwrap(vault: StubVault) -> None:
    entry = await wrapped(vault)
    store = MemoryBackend()
    async with layer(vault, options(vault, entry), store) as writing:
        await writing.objects.put("k", b"value")
    before = vault.count("unwrapkey")
    reading = layer(vault, options(vault, entry), store)
    async with reading:
        assert vault.count("unwrapkey") == before, "what needs no key works without the vault"
        found = await asyncio.gather(*(reading.objects.get("k") for _ in range(100)))
        assert {each.data for each in found if each} == {b"value"}
        await reading.objects.put("k", b"again")
        assert vault.count("unwrapkey") == before + 1
    async with reading:
        assert (await reading.objects.get("k")) is not None
        assert vault.count("unwrapkey") == before + 2, "closing forgets the key"
    assert vault.count("get") == 1, "unwrapping does not read the key"


async def test_a_rotation_in_the_vault_needs_nothing(vault: StubVault) -> None:
    first = await wrapped(vault, "first")
    store = MemoryBackend()
    async with layer(vault, options(vault, first), store) as before:
        await before.objects.put("k", b"1")
    vault.rotate()
    second = await wrapped(vault, "second")
    versions = [
        key.version for _, key in parsed_keys(f"{first},{second}", "keys") if isinstance(key, Wrapped)
    ]
    assert versions == sorted(vault.versions), "each entry names the version that wrapped it"
    async with layer(vault, options(vault, second, first), store) as after:
        found = await after.objects.get("k")
        assert found is not None
        assert found.data == b"1"
        done = await after.rotate("")
        assert (done.encrypted, done.failures) == (1, 0)
    async with layer(vault, options(vault, second), store) as alone:
        found = await alone.objects.get("k")
        assert found is not None
        assert found.data == b"1"


async def test_plain_keys_are_replaced_by_wrapped_ones_by_a_rotation(vault: StubVault) -> None:
    store = MemoryBackend()
    await EncryptionLayer(store, EncryptionOptions(keys=PLAIN)).objects.put("k", b"1")
    entry = await wrapped(vault)
    async with layer(vault, options(vault, entry, PLAIN), store) as both:
        assert (await both.rotate("")).encrypted == 1
    async with layer(vault, options(vault, entry), store) as after:
        assert (await after.objects.get("k")) is not None
    with pytest.raises(ConfigurationError, match="the current key 'old' is not wrapped"):
        EncryptionLayer(store, options(vault, PLAIN, entry))


async def test_a_file_of_wrapped_keys_is_read_again_without_unwrapping_again(
    vault: StubVault, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    first, second = await wrapped(vault, "first"), await wrapped(vault, "second")
    path.write_text(first)
    given = EncryptionOptions(keys_file=str(path), key_vault_key=vault.key)
    ring = ring_of(given, client(vault))
    assert isinstance(ring, FileKeys)
    assert (await ring.current()).id == "first"
    path.write_text(f"{second}\n{first}\n")
    found = await ring.find("second")
    assert found is not None
    assert (await ring.current()).id == "second"
    assert (await ring.find("first")) is not None
    assert vault.count("unwrapkey") == 2
    with pytest.raises(ConfigurationError, match="'second' is wrapped, but key_vault_key is not set"):
        ring_of(EncryptionOptions(keys_file=str(path)))


@pytest.mark.parametrize("identity", [Identity, SyncIdentity])
async def test_the_client_is_challenged_and_signs_in(vault: StubVault, identity: type[Identity]) -> None:
    credential = identity()
    entry = await new_wrapped_key(vault.key, "now", credential, verify=str(vault.certificate))
    assert set(credential.scopes) == {f"https://vault.azure.net:{vault.port}/.default"}
    assert vault.unchallenged == 1
    (_, key), *_ = parsed_keys(entry, "keys")
    assert isinstance(key, Wrapped)
    data = vault.versions[vault.latest].decrypt(key.data, OAEP)
    assert await client(vault, credential).unwrap("now", key) == data
    assert len(data) == 32


async def test_each_event_loop_may_use_the_same_store(vault: StubVault) -> None:
    given = options(vault, await wrapped(vault))
    ring = ring_of(given, client(vault))
    here = await secret(ring)
    await ring.close()

    def elsewhere() -> bytes:
        return asyncio.run(secret(ring))

    found = await asyncio.gather(secret(ring), *(asyncio.to_thread(elsewhere) for _ in range(4)))
    assert set(found) == {here}
    before = vault.count("unwrapkey")
    assert await asyncio.to_thread(elsewhere) == here
    assert vault.count("unwrapkey") == before


async def test_a_waiter_that_is_cancelled_does_not_fail_the_others(vault: StubVault) -> None:
    ring = ring_of(options(vault, await wrapped(vault)), client(vault))
    gate = asyncio.Event()
    started = asyncio.Event()
    unwrap = Vault.unwrap

    async def gated(self: Vault, key_id: str, key: Wrapped) -> bytes:
        started.set()
        await gate.wait()
        return await unwrap(self, key_id, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Vault, "unwrap", gated)
        waiting = [asyncio.create_task(secret(ring)) for _ in range(3)]
        await started.wait()
        waiting[0].cancel()
        gate.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert isinstance(found[1], bytes)
    assert found[1] == found[2]
    assert vault.count("unwrapkey") == 1


async def test_closing_ends_what_is_under_way(vault: StubVault) -> None:
    ring = ring_of(options(vault, await wrapped(vault)), client(vault))
    asked = asyncio.Event()

    def hang(operation: str, _: int) -> str | None:
        asked.set()
        return "hang"

    vault.spoil = hang
    waiting = asyncio.create_task(secret(ring))
    await asked.wait()
    before = asyncio.all_tasks()
    await ring.close()
    with pytest.raises(BackendClosedError):
        await waiting
    assert before - asyncio.all_tasks() - {waiting}
    vault.spoil = lambda _, __: None
    assert await secret(ring)


# -- what fails


@pytest.mark.parametrize(
    ("spoilt", "kind", "says"),
    [
        (lambda: error(403, "Forbidden", "ForbiddenByRbac"), AccessDeniedError, "Key Vault Crypto User"),
        (lambda: error(403, "Forbidden", "ForbiddenByFirewall"), AccessDeniedError, "firewall"),
        (lambda: error(401, "Unauthorized"), AccessDeniedError, "Key Vault Crypto User"),
        (lambda: error(403, "Forbidden", "KeyDisabled"), ConfigurationError, "--enabled true"),
        (lambda: error(403, "Forbidden", "KeyOperationForbidden"), ConfigurationError, "unwrapKey"),
        (lambda: error(404, "KeyNotFound"), ConfigurationError, "recover"),
        (lambda: error(409, "Conflict"), StorageError, "409 Conflict"),
    ],
    ids=["role", "firewall", "token", "disabled", "operation", "missing", "other"],
)
async def test_what_the_vault_refuses_is_told_and_not_tried_again(
    vault: StubVault, spoilt: Any, kind: type[StorageError], says: str
) -> None:
    ring = ring_of(options(vault, await wrapped(vault, "mine")), client(vault))
    vault.spoil = lambda _, __: spoilt()
    with pytest.raises(StorageError) as refused:
        await secret(ring)
    assert type(refused.value) is kind
    assert says in refused.value.explained()
    assert f"the encryption key 'mine' with version {vault.latest} of {vault.key}" in str(refused.value)
    assert vault.count("unwrapkey") == 1
    vault.spoil = lambda _, __: None
    assert await secret(ring), "an error is not kept"


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda: error(429, "Throttled", **{"Retry-After": "0"}),
        lambda: error(503, "ServiceUnavailable"),
        lambda: error(500, "InternalServerError"),
        lambda: web.Response(status=502, text="<html>proxy</html>", content_type="text/html"),
        lambda: web.Response(status=404, text="no such page"),
        lambda: web.Response(text='{"value": "AAA', content_type="application/json"),
        lambda: web.Response(text='["value"]', content_type="application/json"),
        lambda: "cut",
    ],
    ids=["429", "503", "500", "proxy", "bare 404", "half", "list", "cut"],
)
async def test_what_may_pass_is_tried_again_and_told(vault: StubVault, spoilt: Any) -> None:
    ring = ring_of(options(vault, await wrapped(vault)), client(vault))
    vault.spoil = lambda operation, number: spoilt() if number < 3 else None
    expected = await secret(ring)
    assert vault.count("unwrapkey") == 3
    await ring.close()
    vault.spoil = lambda operation, number: spoilt()
    failed = await asyncio.gather(*(secret(ring) for _ in range(10)), return_exceptions=True)
    assert vault.count("unwrapkey") == 3 + 4
    assert {type(each) for each in failed} == {StorageUnavailableError}
    assert len({id(each) for each in failed}) == 10, "each has its own"
    vault.spoil = lambda _, __: None
    assert await secret(ring) == expected


@pytest.mark.parametrize("value", ["%%%", 7, None], ids=str)
async def test_an_answer_without_a_key_is_none_of_key_vault(vault: StubVault, value: Any) -> None:
    ring = ring_of(options(vault, await wrapped(vault)), client(vault))
    vault.spoil = lambda _, __: web.json_response({"value": value})
    with pytest.raises(StorageUnavailableError, match="the answer is not one of Key Vault"):
        await secret(ring)


async def test_a_vault_that_wants_to_be_left_alone_is(vault: StubVault) -> None:
    ring = ring_of(options(vault, await wrapped(vault)), client(vault))
    vault.spoil = lambda _, __: error(429, "Throttled", **{"Retry-After": "30"})
    with pytest.raises(StorageUnavailableError) as refused:
        await secret(ring)
    assert (refused.value.retry_after, refused.value.refused) == (30, True)
    assert vault.count("unwrapkey") == 1


async def test_a_vault_that_does_not_answer_is_given_up(
    vault: StubVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = ring_of(options(vault, await wrapped(vault)), client(vault))
    monkeypatch.setattr(vault_module, "_SECONDS", 0.5)
    vault.spoil = lambda _, __: "hang"
    with pytest.raises(StorageUnavailableError, match=r"no answer within 0\.5 seconds"):
        await secret(ring)


async def test_an_unreachable_vault_is_unavailable(vault: StubVault) -> None:
    entry = await wrapped(vault)
    key = vault.key
    await vault.__aexit__()
    with pytest.raises(StorageUnavailableError):
        await secret(ring_of(options(vault, entry), client(vault, key=key)))


async def test_a_vault_that_is_none_gets_no_token(vault: StubVault) -> None:
    """A server that asks for a token for something else."""
    identity = Identity()
    vault.resource = "https://graph.microsoft.com"
    with pytest.raises(ConfigurationError, match="does not match the requested domain") as refused:
        await client(vault, identity).unwrap("now", Wrapped(vault.latest, bytes(256)))
    assert refused.value.field == "key_vault_key"
    assert identity.scopes == []
    assert vault.seen == []


async def test_an_identity_that_has_no_token_is_refused(vault: StubVault) -> None:
    identity = Identity(ClientAuthenticationError("no identity here"))
    with pytest.raises(AccessDeniedError, match="no identity here") as refused:
        await client(vault, identity).unwrap("now", Wrapped(vault.latest, bytes(256)))
    assert "Key Vault Crypto User" in refused.value.explained()


async def test_a_wrong_wrapped_key_is_refused(vault: StubVault) -> None:
    entry = await wrapped(vault, "mine")
    version = vault.latest
    vault.rotate()
    other = entry.replace(version, vault.latest)
    changed = entry[:-10] + ("A" if entry[-10] != "A" else "B") + entry[-9:]
    for wrong in (other, changed):
        with pytest.raises(ConfigurationError, match=r"'mine'.*400 BadParameter") as refused:
            await secret(ring_of(options(vault, wrong), client(vault)))
        assert refused.value.field == "keys"
    gone = entry.replace(version, "f" * 32)
    with pytest.raises(ConfigurationError, match=f"version {'f' * 32} of .*404 KeyNotFound"):
        await secret(ring_of(options(vault, gone), client(vault)))
    short = vault.versions[version].public_key().encrypt(bytes(16), OAEP)
    with pytest.raises(ConfigurationError, match="it has 16 bytes"):
        await secret(ring_of(options(vault, f"mine:{Wrapped(version, short)}"), client(vault)))


async def test_a_disabled_version_wraps_no_key(vault: StubVault) -> None:
    vault.enabled[vault.latest] = False
    with pytest.raises(ConfigurationError, match="it is disabled") as refused:
        await wrapped(vault)
    assert vault.latest in refused.value.explained()
    older = vault.latest
    vault.rotate()
    assert (await wrapped(vault)).startswith(f"now:{vault.latest}.")
    vault.enabled[older] = True
    one = await new_wrapped_key(f"{vault.key}/{older}", "x", Identity(), verify=str(vault.certificate))
    assert one.startswith(f"x:{older}.")


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (AccessDeniedError("403 ForbiddenByRbac", remedy="a role"), 500, "access-denied"),
        (StorageUnavailableError("no answer"), 503, "storage-unavailable"),
    ],
    ids=["forbidden", "away"],
)
async def test_an_app_whose_key_cannot_be_unwrapped_is_not_ready(
    failure: StorageError, status: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[StorageError] = [failure, failure]

    async def unwrap(self: Vault, key_id: str, key: Wrapped) -> bytes:
        if failures:
            raise failures.pop()
        return bytes(32)

    monkeypatch.setattr(Vault, "unwrap", unwrap)
    given = EncryptionOptions(keys=f"a:1.{'A' * 342}", key_vault_key=KEY)
    async with serve(monkeypatch, StorageConfig(base_path=tmp_path, encryption=given)) as app:
        answer = await app("GET", "/api/health/ready")
        assert (answer.status, answer.problem["code"]) == (status, code)
        assert (await app("PUT", "/api/objects/k", b"1")).status == status
        assert (await app("GET", "/api/health/ready")).status == 200
        assert (await app("PUT", "/api/objects/k", b"1")).status == 201


# -- options, secrets, copies


@pytest.mark.parametrize(
    ("settings", "field", "says"),
    [
        (
            {"KEY_VAULT_KEY": "http://v.vault.azure.net/keys/k"},
            "KEY_VAULT_KEY",
            "not the identifier of a key",
        ),
        ({"KEY_VAULT_KEY": "https://v.vault.azure.net/secrets/k"}, "KEY_VAULT_KEY", "not the identifier"),
        ({"KEY_VAULT_KEY": "https://v.vault.azure.net@evil/keys/k"}, "KEY_VAULT_KEY", "not the identifier"),
        ({"KEYS": f"a:{'f' * 32}.{'A' * 342}"}, "KEY_VAULT_KEY", "'a' is wrapped, but AGENT"),
        ({"KEYS": f"a:{'f' * 32}.{'A' * 100}", "KEY_VAULT_KEY": KEY}, "KEYS", "'a' of AGENT"),
        ({"KEYS": f"a:f-f.{'A' * 342}", "KEY_VAULT_KEY": KEY}, "KEYS", "is not a wrapped key"),
    ],
    ids=["http", "secret", "user", "no vault", "short", "version"],
)
def test_settings_that_cannot_work(settings: dict[str, str], field: str, says: str) -> None:
    env = {f"AGENT_STORAGE_ENCRYPTION_{name}": value for name, value in settings.items()}
    with pytest.raises(ConfigurationError) as refused:
        StorageConfig.from_env({"AGENT_STORAGE_TYPE": "memory", "AGENT_STORAGE_ENCRYPTION": "true", **env})
    assert refused.value.field == f"AGENT_STORAGE_ENCRYPTION_{field}"
    assert says in refused.value.message


def _pickled(one: Any) -> Any:
    return pickle.loads(pickle.dumps(one))  # noqa: S301


@pytest.mark.parametrize("way", [copy.deepcopy, _pickled])
def test_options_and_layer_are_copied_with_their_wrapped_keys(way: Any) -> None:
    given = EncryptionOptions(keys=f"a:{'f' * 32}.{'A' * 342}", key_vault_key=f"{KEY}/{'e' * 32}")
    config = StorageConfig(storage_type="memory", encryption=given, client_id="of-the-app")
    assert way(config) == config
    assert hash(way(config)) == hash(config)
    from storage_lib.factory import build

    copied = way(build(StorageConfig(base_path="unused", encryption=given, client_id="of-the-app")))
    assert copied.options == given
    with pytest.raises(NotPortableError):
        way(Vault(KEY))


async def test_no_secret_is_shown(vault: StubVault, caplog: pytest.LogCaptureFixture) -> None:
    entry = await wrapped(vault)
    (_, key), *_ = parsed_keys(entry, "keys")
    assert isinstance(key, Wrapped)
    data = vault.versions[vault.latest].decrypt(key.data, OAEP)
    shown: list[str] = []
    with caplog.at_level(logging.DEBUG):
        given = options(vault, entry)
        sealing = layer(vault, given)
        async with StorageManager(backend=sealing) as storage:
            await storage.save("k", 1)
            shown += [repr(each) for each in (storage, sealing, given, sealing.ring, client(vault))]
        half = web.json_response({"value": base64.urlsafe_b64encode(data).decode()}).text or ""
        for answer in (half[:-3], half[:-2] + ', "x": }'):
            vault.spoil = lambda _, __, text=answer: web.Response(text=text, content_type="application/json")
            with pytest.raises(StorageUnavailableError) as refused:
                await secret(ring_of(given, client(vault)))
            seen: BaseException | None = refused.value
            while seen is not None:
                shown += [repr(seen), repr(vars(seen))]
                assert not hasattr(seen, "response")
                seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    text = "\n".join([*shown, caplog.text])
    for hidden in (data.hex(), *(encode(data).decode().rstrip("=") for encode in _ENCODINGS), TOKEN):
        assert hidden not in text
    assert repr(data)[2:-1] not in text


_ENCODINGS = (base64.b64encode, base64.urlsafe_b64encode)


def test_nothing_of_azure_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys; from storage_lib import StorageConfig; from storage_lib.factory import build;"
        "from storage_lib.config import EncryptionOptions;"
        f"build(StorageConfig(encryption=EncryptionOptions(keys='a:1.{'A' * 342}', key_vault_key='{KEY}')));"
        "print([name for name in ('azure.keyvault.keys', 'azure.identity', 'azure.core', 'aiohttp')"
        " if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


async def test_without_its_package_the_option_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_module, "_is_installed", lambda: False)
    with pytest.raises(ConfigurationError, match="is not installed") as refused:
        Vault(KEY)
    assert "agent-storage[key-vault]" in refused.value.explained()


# -- the command, as an operator and an app run it


class Platform:
    """The endpoint from which an app on Azure has the tokens of its identities."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        until = str(int(time.time()) + 3600)
        token = {"access_token": TOKEN, "expires_on": until, "token_type": "Bearer"}
        return web.json_response({**token, "resource": request.query["resource"]})


async def run(vault: StubVault, *arguments: str, **env: str) -> tuple[int | None, str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.key_vault", *arguments),
        cwd=PROJECT,
        env={**kept, "SSL_CERT_FILE": str(vault.certificate), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 600)
    return process.returncode, out.decode(), err.decode()


async def test_the_command_makes_a_key_that_the_identity_of_the_app_unwraps(
    vault: StubVault, tmp_path: Path
) -> None:
    platform = Platform()
    app = web.Application()
    app.router.add_route("GET", "/identity", platform.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        identity = {
            "IDENTITY_ENDPOINT": f"http://127.0.0.1:{runner.addresses[0][1]}/identity",
            "IDENTITY_HEADER": "secret-of-the-platform",
        }
        code, out, err = await run(
            *(vault, "storage_lib.encryption", "new-key", "2026-1", "--key-vault-key", vault.key),
            AZURE_CLIENT_ID="of-the-operator",
            **identity,
        )
        assert code == 0, err
        entry = out.strip()
        assert entry.startswith(f"2026-1:{vault.latest}.")
        (tmp_path / "use.py").write_text(USE)
        code, out, err = await run(
            *(vault, "use"),
            PYTHONPATH=str(tmp_path),
            AGENT_STORAGE_TYPE="memory",
            AgentStorage__blobServiceUri="https://unused.blob.core.windows.net",
            AgentStorage__clientId="of-the-app",
            AGENT_STORAGE_ENCRYPTION="true",
            AGENT_STORAGE_ENCRYPTION_KEYS=entry,
            AGENT_STORAGE_ENCRYPTION_KEY_VAULT_KEY=vault.key,
            **identity,
        )
        assert (code, out.strip(), err) == (0, "{'a': 1}", "")
    finally:
        await runner.cleanup()
    assert [each.get("client_id") for each in platform.asked] == ["of-the-operator", "of-the-app"]
    assert vault.seen == ["get", "wrapkey", "unwrapkey"]


USE = """
import asyncio
from storage_lib import StorageConfig, StorageManager

async def main():
    async with StorageManager(StorageConfig.from_env()) as storage:
        await storage.save("k", {"a": 1})
        print(await storage.load("k"))

asyncio.run(main())
"""


def test_the_command_makes_plain_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-key", "2026-1"]) == 0
    entry = capsys.readouterr().out.strip()
    assert dict(parsed_keys(entry, "keys")).keys() == {"2026-1"}
    assert new_key("2026-1") != entry


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["new-key", "a b"], "letters, digits"),
        (["new-key", "a", "--key-vault-key", "vault"], "https://VAULT.vault.azure.net/keys/NAME"),
        ([], "required"),
    ],
    ids=["id", "url", "nothing"],
)
def test_arguments_that_cannot_work(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.out == ""


def test_a_key_that_cannot_be_made_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refused(self: Vault, secret: bytes) -> Wrapped:
        raise AccessDeniedError("403 ForbiddenByRbac", remedy="a role")

    monkeypatch.setattr(Vault, "wrap", refused)
    assert main(["new-key", "a", "--key-vault-key", KEY]) == 1
    printed = capsys.readouterr()
    assert "403 ForbiddenByRbac; remedy: a role" in printed.err
    assert printed.out == ""
