"""Writes storage_lib/sync.py, the synchronous twin of `StorageManager`: ``python -m tests.sync_source``."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT

TARGET = PROJECT / "storage_lib/sync.py"
_MANAGER = PROJECT / "storage_lib/manager.py"
_PORTS = PROJECT / "storage_lib/ports"
_ASYNC = "AbstractAsyncContextManager["
_BY_HAND = frozenset({"__init__", "__repr__", "__reduce__", "__aenter__", "__aexit__", "close", "is_closed"})

_HEAD = '''"""`SyncStorageManager`: `StorageManager` for code without async.

Written by ``python -m tests.sync_source`` from the methods of `StorageManager`; a test says when to run it.
"""

# pyright: reportOverlappingOverload=false

from __future__ import annotations

{imports}

if TYPE_CHECKING:
{typed}

{constants}

__all__ = [{readers}, "SyncStorageManager"]


class SyncStorageManager:
    """`StorageManager` for code without async, with the same methods.

        with SyncStorageManager(StorageConfig(base_path="data")) as storage:
            storage.save("configs/ceo.json", {{"model": "large"}})
            config = storage.load("configs/ceo.json")

    Any number of threads may use it at once, and a notebook, whose event loop waits meanwhile. Listings are
    iterated with ``for``, and `open_reader` is used with ``with``. In async code use `StorageManager`: this
    one blocks the thread. What layers do in the background goes on during the next call, at the latest in
    `close`.
    """

    def __init__(self, config: StorageConfig | None = None, *, backend: StorageBackend | None = None) -> None:
        """Choose the storage; nothing is opened yet. The parameters are those of `StorageManager`."""
        self._storage = StorageManager(config, backend=backend)
        self._blocking = Blocking()

    def __repr__(self) -> str:
        return f"{{type(self).__name__}}({{self._storage.backend!r}})"

    def __getstate__(self) -> dict[str, Any]:
        """Pickled and copied as `StorageManager` is."""
        return {{name: value for name, value in vars(self).items() if name != "_blocking"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._blocking = Blocking()

    @property
    def backend(self) -> StorageBackend:
        """The backend, whose methods are coroutines."""
        return self._storage.backend

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, and not opened again."""
        return self._storage.is_closed

    def close(self) -> None:
        """Release connections; a backend that was passed in stays open."""
        try:
            self._blocking.call(self._storage.close())
        finally:
            self._blocking.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

'''


def generated() -> str:
    """What storage_lib/sync.py is to be."""
    tree = ast.parse(_MANAGER.read_text())
    manager = _class(tree, "StorageManager")
    parts = [
        _method(method, "self._storage", "self._blocking.call")
        for method in manager.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and _is_public(method.name)
    ]
    opened = _opened(manager)
    twins = [_twin(_found(name)) for name in opened]
    body = _HEAD.format(
        imports=_imports(tree, typed=False),
        typed=_imports(tree, typed=True),
        readers=", ".join(f'"Sync{name}"' for name in opened),
        constants=_constants(tree),
    )
    return _tidied(body + "\n".join(parts) + "\n\n" + "\n".join(twins), TARGET)


def _tidied(text: str, target: Path) -> str:
    """Formatted, and without imports that are not used."""
    for command in (["check", "--fix", "-q", "--select", "F,I,TC,E"], ["format", "-q"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(target), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            cwd=PROJECT,
        )
        text = done.stdout
    return text


def _opened(manager: ast.ClassDef) -> list[str]:
    """The classes of what the manager's context managers give."""
    returned = [
        ast.unparse(each.returns)
        for each in manager.body
        if isinstance(each, ast.FunctionDef) and each.returns
    ]
    return sorted(_given(each) for each in returned if each.startswith(_ASYNC))


def _given(returned: str) -> str:
    return returned.removeprefix(_ASYNC).removesuffix("]")


def _found(name: str) -> ast.ClassDef:
    """A class of the ports."""
    for path in sorted(_PORTS.glob("*.py")):
        for each in ast.parse(path.read_text()).body:
            if isinstance(each, ast.ClassDef) and each.name == name:
                return each
    raise LookupError(name)


def _twin(of: ast.ClassDef) -> str:
    """The class whose methods call those of ``of``."""
    made = _method_named(of, "__init__")
    types = {each.arg: ast.unparse(each.annotation) for each in made.args.args if each.annotation is not None}
    parts = [f"class Sync{of.name}(Streamed[{of.name}]):\n    {_docstring(of, 4)}\n"]
    for each in made.body:
        target = each.targets[0] if isinstance(each, ast.Assign) else getattr(each, "target", None)
        if not isinstance(target, ast.Attribute) or target.attr.startswith("_"):
            continue
        if isinstance(each, ast.AnnAssign):
            kind = ast.unparse(each.annotation)
        else:
            value = getattr(each, "value", None)
            kind = type(value.value).__name__ if isinstance(value, ast.Constant) else types[target.attr]
        name = target.attr
        parts.append(f"    @property\n    def {name}(self) -> {kind}:\n        return self._opened.{name}\n")
    methods = [each for each in of.body if isinstance(each, ast.AsyncFunctionDef)]
    if any(each.name == "__aiter__" for each in methods):
        parts.append(
            "    def __iter__(self) -> Iterator[bytes]:\n        return self._chunks(aiter(self._opened))\n"
        )
    parts += [_method(each, "self._opened", "self._line.call") for each in methods if _is_public(each.name)]
    return "\n".join(parts)


def _is_public(name: str) -> bool:
    return not name.startswith("_") and name not in _BY_HAND


def _class(tree: ast.Module, name: str) -> ast.ClassDef:
    return next(each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name)


def _method_named(of: ast.ClassDef, name: str) -> ast.FunctionDef:
    return next(each for each in of.body if isinstance(each, ast.FunctionDef) and each.name == name)


def _method(method: ast.FunctionDef | ast.AsyncFunctionDef, of: str, call: str) -> str:
    decorators = "".join(f"    @{ast.unparse(each)}\n" for each in method.decorator_list)
    returned = ast.unparse(method.returns) if method.returns is not None else "None"
    types = f"[{', '.join(ast.unparse(each) for each in method.type_params)}]" if method.type_params else ""
    passed = _passed(method.args)
    if "property" in decorators:
        body = f"return {of}.{method.name}"
    elif "overload" in decorators:
        body = "..."
    elif isinstance(method, ast.AsyncFunctionDef):
        body = f"return {call}({of}.{method.name}({passed}))"
    elif returned.startswith("Listed["):
        body = f"return Listing(self._blocking, {of}.{method.name}({passed}))"
    elif returned.startswith(_ASYNC):
        twin = f"Sync{_given(returned)}"
        body = f"return Opened(self._blocking, {of}.{method.name}({passed}), {twin})"
        returned = f"AbstractContextManager[{twin}]"
    else:
        body = f"return {of}.{method.name}({passed})"
    returned = returned.replace("Listed[", "Listing[")
    has_words = "overload" not in decorators and ast.get_docstring(method) is not None
    said = f"        {_docstring(method, 8)}\n" if has_words else ""
    head = f"    def {method.name}{types}({ast.unparse(method.args)}) -> {returned}:\n"
    return f"{decorators}{head}{said}        {body}\n"


def _docstring(of: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, indent: int) -> str:
    told = (ast.get_docstring(of) or "").replace("async with ", "with ").replace("async for ", "for ")
    told = told.replace("an async iterator", "an iterator").replace("await storage.", "storage.")
    told = told.replace("await writer.", "writer.")
    lines = told.splitlines()
    text = "\n".join([lines[0], *(" " * indent + line if line else "" for line in lines[1:])])
    return f'"""{text}"""' if len(lines) == 1 else f'"""{text}\n{" " * indent}"""'


def _passed(arguments: ast.arguments) -> str:
    passed = [each.arg for each in arguments.args if each.arg != "self"]
    passed += [f"{each.arg}={each.arg}" for each in arguments.kwonlyargs]
    if arguments.kwarg is not None:
        passed.append(f"**{arguments.kwarg.arg}")
    return ", ".join(passed)


def _imports(tree: ast.Module, *, typed: bool) -> str:
    """The imports of the manager; ruff removes what is not used."""
    found: list[str] = []
    for each in tree.body:
        if typed and isinstance(each, ast.If):
            found += [f"    {ast.unparse(one)}" for one in each.body]
        elif not typed and isinstance(each, ast.Import | ast.ImportFrom):
            found += [text] if "__future__" not in (text := ast.unparse(each)) else []
    if not typed:
        found += [
            "from collections.abc import Iterator",
            "from contextlib import AbstractContextManager",
            "from typing import Any, Self",
            "from types import TracebackType",
            "from storage_lib.blocking import Blocking, Listing, Opened, Streamed",
            "from storage_lib.manager import StorageManager",
        ]
    return "\n".join(found)


def _constants(tree: ast.Module) -> str:
    """The sentinels that defaults name: the manager's own."""
    names = {
        target.id
        for each in tree.body
        if isinstance(each, ast.AnnAssign) and isinstance(target := each.target, ast.Name)
    }
    used = {
        default.id
        for method in _class(tree, "StorageManager").body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
        for default in (*method.args.defaults, *method.args.kw_defaults)
        if isinstance(default, ast.Name) and default.id in names
    }
    ignored = "# pyright: ignore[reportPrivateUsage]"
    return "\n".join(f"from storage_lib.manager import {name}  {ignored}" for name in sorted(used))


CONVERSATIONS = PROJECT / "storage_lib/conversations/sync.py"
_LOG = PROJECT / "storage_lib/conversations/log.py"
_HEAD_OF_CONVERSATIONS = '''"""`SyncConversations`: `Conversations` for code without async.

Written by ``python -m tests.sync_source`` from the methods of `Conversations`; a test says when to run it.
"""

# pyright: reportOverlappingOverload=false

from __future__ import annotations

{imports}
from storage_lib.conversations.log import _NOTHING  # pyright: ignore[reportPrivateUsage]
from storage_lib.conversations.log import Conversations, Summarise
from storage_lib.sync import SyncStorageManager

__all__ = ["SyncConversations"]


class SyncConversations:
    """`Conversations` for code without async, with the same methods, on a `SyncStorageManager`.

        log = SyncConversations(storage)
        log.append("chats/42", [{{"role": "user", "content": "Hello"}}], participants=["ceo"])
        entries = log.read("chats/42", last=20)

    Any number of threads may use it at once.
    """

    def __init__(
        self,
        storage: SyncStorageManager,
        *,
        table: str = TABLE,
        ttl: float | None = None,
        max_messages: int | None = None,
        max_age: float | None = None,
        messages_as_objects: bool = False,
    ) -> None:
        """The parameters are those of `Conversations`."""
        self._log = Conversations(
            storage._storage,  # pyright: ignore[reportPrivateUsage]
            table=table,
            ttl=ttl,
            max_messages=max_messages,
            max_age=max_age,
            messages_as_objects=messages_as_objects,
        )
        self._blocking = storage._blocking  # pyright: ignore[reportPrivateUsage]

'''


def generated_conversations() -> str:
    """What storage_lib/conversations/sync.py is to be."""
    tree = ast.parse(_LOG.read_text())
    parts = [
        _method(method, "self._log", "self._blocking.call")
        for method in _class(tree, "Conversations").body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and _is_public(method.name)
    ]
    text = _HEAD_OF_CONVERSATIONS.format(imports=_imports(tree, typed=False)) + "\n".join(parts)
    return _tidied(text.replace("from storage_lib.manager import StorageManager\n", ""), CONVERSATIONS)


if __name__ == "__main__":
    TARGET.write_text(generated())
    CONVERSATIONS.write_text(generated_conversations())
