"""``keys``: the keys of the encryption layer."""

from typing import Annotated

import typer

from storage_lib.cli.command import Run, command, group
from storage_lib.cli.exits import say
from storage_lib.cli.many import JOBS, Jobs

app = group("keys", "Encryption keys.")


@command(app, "new", store=False)
async def new(
    run: Run,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Names the key.")],
    key_vault_key: Annotated[
        str | None,
        typer.Option("--key-vault-key", metavar="URL", help="Wrap it with this key in Azure Key Vault."),
    ] = None,
) -> None:
    """Write a new key.

    It is an entry of AGENT_STORAGE_ENCRYPTION_KEYS, and a secret.
    """
    from storage_lib import encryption

    if key_vault_key is None:
        run.out.line(encryption.new_key(key_id))
    else:
        run.out.line(await encryption.new_wrapped_key(key_vault_key, key_id))


@command(app, "rotate", json=True)
async def rotate(
    run: Run,
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Only objects below it.")] = "",
    after: Annotated[
        str | None, typer.Option("--after", metavar="KEY", help="Go on after this key, last of --json.")
    ] = None,
    include_plaintext: Annotated[
        bool, typer.Option("--include-plaintext", help="Also encrypt what is stored in clear.")
    ] = False,
    jobs: Jobs = JOBS,
) -> None:
    """Encrypt anew what has an earlier key.

    The first key of the settings encrypts. The store may be in use. Running it again goes on:
    what has the first key already costs one request.
    """
    from msgspec import to_builtins

    async with run.open() as storage:
        done = await storage.rotate_keys(
            prefix, after=after, include_plaintext=include_plaintext, concurrency=jobs
        )
    for key, error in done.failed.items():
        run.failed(key, error)
    if done.failures > len(done.failed):
        say(f"{done.failures - len(done.failed):,} more failed")
    fields = to_builtins(done, enc_hook=lambda error: error.explained())
    run.out.answer(
        fields, f"{done.examined} examined, {done.encrypted} encrypted anew, {done.failures} failed"
    )
