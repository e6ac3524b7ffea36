"""The access policy: which principal may do what to which objects, tasks, tables and queues.

    {
      "keys": {"ceo": ["sha-256 of a function key, in hex"]},
      "principals": {
        "key:ceo": {"may": {"load": ["agents/ceo", "shared"], "save": ["agents/ceo"]}},
        "aad:0f8f…": {"root": "tenants/acme/", "may": {"*": [""]}}
      }
    }

What is not allowed is denied. A prefix means whole segments: ``agents/ceo`` is that key and all below
``agents/ceo/``, not ``agents/ceo2`` or ``agents/ceo.json``; ``agents/ceo/`` is only what is below; the empty
one is everything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote

import msgspec

from storage_lib.errors import ConfigurationError, InvalidKeyError, StorageError
from storage_lib.keys import validate_user_key
from storage_lib.names import queue_name, table_name
from storage_lib.patterns import pattern
from storage_lib.segments import to_segment
from storage_lib.spelling import UnknownNameError, refuse_unknown
from storage_lib.tasks.model import check_agent_id

OBJECT_ACTIONS = ("load", "list", "save", "delete")
"""``load`` reads an object and its properties, ``list`` shows that it is there, ``save`` creates, replaces
and touches, ``delete`` removes. A copy loads and saves, a move also deletes."""
NAMED_ACTIONS = ("tasks", "tables", "queues")
"""Their values are names, not prefixes: of agents, whose tasks may be submitted, seen and controlled, of
tables and of queues; ``*`` is every name."""
ACTIONS = (*OBJECT_ACTIONS, *NAMED_ACTIONS, "operate")
"""``operate``, with ``["*"]``: the app's own matters, such as metrics, system tables and all tasks."""

ANYONE = "*"
"""The principal whose grant everyone has who has proved to be somebody."""
ANONYMOUS = "anonymous"
"""The principal of those who have not."""

_MOST_BYTES = 1024 * 1024
_DIGEST = pattern(r"[0-9a-f]{64}")
_MOST_CHARACTERS = 256
_PRINCIPAL = pattern(rf"[!-~]{{1,{_MOST_CHARACTERS}}}")
_PRINTED = "!#$&'()*+,/:;=?@[]|~"
"""What stands for itself in the name of a principal, besides letters, digits and ``-._``."""


def principal_name(kind: str, who: str) -> str | None:
    """The name of a principal, in which all but printable ASCII is percent-encoded, so that no two are alike;
    None if it is longer than that of any in a policy."""
    name = f"{kind}:{quote(who, safe=_PRINTED)}"
    return name if len(name) <= _MOST_CHARACTERS else None


class Grant:
    """What a caller may do: one principal's rights, or those of several together.

    :param root: the prefix that the caller takes for the whole store; empty, or ending in ``/``.
    :param may: prefixes or names by action.
    """

    __slots__ = ("_may", "principal", "principals", "root")

    def __init__(
        self,
        principal: str,
        root: str = "",
        may: Mapping[str, Iterable[str]] | None = None,
        principals: Iterable[str] = (),
    ) -> None:
        self.principal = principal
        self.principals = tuple(dict.fromkeys((principal, *principals)))
        """The caller's own name, and those of its others that the policy knows."""
        self.root = root
        self._may = {action: frozenset(found) for action, found in (may or {}).items()}

    def allows(self, action: str, key: str) -> bool:
        """Whether the caller may do this to the object ``key``, as it knows it."""
        return self._reaches(action, key) or key in self._may.get(action, ())

    def covers(self, action: str, prefix: str) -> bool:
        """Whether the caller may do this to every object whose key starts with ``prefix``."""
        return self._reaches(action, prefix)

    def _reaches(self, action: str, text: str) -> bool:
        """Whether a rule is for the whole of something that ``text`` is below."""
        rules = self._may.get(action)
        if not rules:
            return False
        if "" in rules:
            return True
        at = text.find("/")
        while at >= 0:
            if text[:at] in rules or text[: at + 1] in rules:
                return True
            at = text.find("/", at + 1)
        return False

    def areas(self, action: str, prefix: str) -> list[str]:
        """What the caller may do this to below ``prefix``, in the order of UTF-8: prefixes that end in ``/``,
        and single keys, none below another."""
        found: set[str] = set()
        for rule in self._may.get(action, ()):
            for area in (rule,) if rule.endswith("/") else (rule, f"{rule}/"):
                if area.startswith(prefix) and area:
                    found.add(area)
        return sorted(
            (area for area in found if not self._reaches(action, area[:-1])), key=lambda area: area.encode()
        )

    def names(self, action: str, name: str) -> bool:
        """Whether the caller may use this agent's tasks, this table or this queue."""
        allowed = self._may.get(action, ())
        return name in allowed or "*" in allowed

    def listed(self, action: str) -> frozenset[str] | None:
        """The names that the caller may use; None for all."""
        allowed = self._may.get(action, frozenset())
        return None if "*" in allowed else allowed

    def within(self, other: Grant) -> Grant:
        """This caller, with only those of its rights that ``other`` has, too, whatever its root is."""
        may: dict[str, Iterable[str]] = {}
        for action in OBJECT_ACTIONS:
            ours = [self.root + rule for rule in self._may.get(action, ())]
            theirs = [other.root + rule for rule in other._may.get(action, ())]
            both = {a if _is_within(a, b) else b for a in ours for b in theirs if _is_nested(a, b)}
            may[action] = [rule.removeprefix(self.root) for rule in both]
        for action in (*NAMED_ACTIONS, "operate"):
            ours, theirs = self._may.get(action, frozenset()), other._may.get(action, frozenset())
            may[action] = theirs if "*" in ours else ours if "*" in theirs else ours & theirs
        return Grant(self.principal, self.root, may, self.principals)

    @property
    def rights(self) -> dict[str, list[str]]:
        """The prefixes or names by action, as the policy tells them: below `root`."""
        return {action: sorted(found) for action, found in sorted(self._may.items()) if found}

    @property
    def operates(self) -> bool:
        """Whether it may see and do what is the app's own."""
        return bool(self._may.get("operate"))

    @property
    def is_everything(self) -> bool:
        """Whether nothing is denied."""
        return (
            not self.root
            and self.operates
            and all(self.covers(action, "") for action in OBJECT_ACTIONS)
            and all(self.listed(action) is None for action in NAMED_ACTIONS)
        )


def _is_within(rule: str, other: str) -> bool:
    """Whether whatever one rule is for, the other one is for, too."""
    return other in ("", rule) or rule.startswith(other if other.endswith("/") else f"{other}/")


def _is_nested(rule: str, other: str) -> bool:
    return _is_within(rule, other) or _is_within(other, rule)


class _Principal(msgspec.Struct, forbid_unknown_fields=True):
    may: dict[str, list[str]]
    root: str = ""


class Policy:
    """The grants by principal; see `parse`."""

    def __init__(self, keys: Mapping[str, Sequence[str]], principals: Mapping[str, _Principal]) -> None:
        self._principals = dict(principals)
        self._keys = {digest: name for name, digests in keys.items() for digest in digests}
        self._known: dict[tuple[str, ...], Grant] = {}

    @classmethod
    def parse(cls, document: bytes | str) -> Policy:
        """A policy from its JSON.

        :raises ConfigurationError: it is none; ``field`` says where.
        """
        size = len(document)
        if size > _MOST_BYTES:
            raise _refused(f"the policy has {size} bytes", "policy", f"{_MOST_BYTES} bytes")
        try:
            found: Any = msgspec.json.decode(document)
            json.loads(document, object_pairs_hook=_each_once)
        except (ValueError, RecursionError) as error:
            raise _refused(f"the policy is not JSON: {error}", "policy") from error
        if not isinstance(found, dict):
            raise _refused("the policy is no JSON object", "policy", '{"principals": {…}}')
        parts = cast("dict[str, Any]", found)
        _known(parts, ("keys", "principals"), "policy")
        return cls(_keys(parts.get("keys", {})), _principals(parts.get("principals")))

    def key_name(self, key: str) -> str | None:
        """The name of a function key; None if the policy has none like it. What is compared are digests: the
        time that takes tells nothing of the key."""
        return self._keys.get(hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest())

    def grant(self, principals: Sequence[str]) -> Grant:
        """What a caller with these names may do: what any of them may.

        :param principals: the caller's own name first, then those of its roles; none for a caller that has
            not proved to be anybody.
        :raises ConfigurationError: two of them have different roots.
        """
        wanted = tuple(principals)
        grant = self._known.get(wanted)
        if grant is None:
            grant = self._joined(wanted)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[wanted] = grant
        return grant

    def _joined(self, principals: tuple[str, ...]) -> Grant:
        name = principals[0] if principals else ANONYMOUS
        found = self._principals
        own = [(each, found[each]) for each in dict.fromkeys(principals or (ANONYMOUS,)) if each in found]
        anyone = found.get(ANYONE) if principals else None
        if anyone is not None and (not own or own[0][1].root == anyone.root):
            own.append((ANYONE, anyone))
        roots = {rights.root.replace(_NAME, to_segment(name)) for _, rights in own}
        if len(roots) > 1:
            raise _refused(
                f"the principals {', '.join(each for each, _ in own)} of one caller have different roots",
                "policy.principals",
                "one root for all principals that a caller may have",
            )
        may: dict[str, set[str]] = {}
        for _, rights in own:
            for action, rules in rights.may.items():
                for each in _MEANT.get(action, (action,)):
                    may.setdefault(each, set()).update(rules)
        known = [each for each, _ in own if each not in (ANYONE, ANONYMOUS)]
        return Grant(name, roots.pop() if roots else "", may, known)


_NAME = "{principal}"
"""Stands in a root for the name of the caller, as one segment."""
_MEANT = {"*": OBJECT_ACTIONS}
_MOST_KNOWN = 10_000


def _keys(found: Any) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    if not isinstance(found, dict):
        raise _refused("keys is no JSON object", "policy.keys", '{"NAME": ["SHA-256 in hex"]}')
    seen: dict[str, str] = {}
    for name, digests in cast("dict[str, Any]", found).items():
        field = f"policy.keys.{name[:80]}"
        if not _PRINCIPAL.fullmatch(name):
            raise _refused(f"a key is named {name[:80]!r}", "policy.keys", _PRINCIPALS)
        given: list[Any] = digests if isinstance(digests, list) else [digests]
        for digest in given:
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
                raise _refused(
                    f"a digest of the key {name[:80]!r} is none",
                    field,
                    "the SHA-256 of the function key in 64 lower-case hex digits",
                )
            if digest in seen:
                raise _refused(f"{seen[digest]!r} and {name!r} are the same key", field, "one name for a key")
            seen[digest] = name
        keys[name] = given
    return keys


_FORM = '{"NAME": {"may": {…}}}'
_FORM_OF_ONE = '{"may": {"load": ["PREFIX"]}, "root": "…/"}'
_PRINCIPALS = "1 to 256 printable ASCII characters without spaces"


def _principals(found: Any) -> dict[str, _Principal]:
    if not isinstance(found, dict):
        raise _refused("principals is missing, or no JSON object", "policy.principals", _FORM)
    principals: dict[str, _Principal] = {}
    for name, rights in cast("dict[str, Any]", found).items():
        field = f"policy.principals.{name[:80]}"
        if not _PRINCIPAL.fullmatch(name):
            raise _refused(f"a principal is named {name[:80]!r}", "policy.principals", _PRINCIPALS)
        if not isinstance(rights, dict):
            raise _refused("a principal is a JSON object", field, _FORM_OF_ONE)
        _known(cast("dict[str, Any]", rights), ("may", "root"), field)
        try:
            principal = msgspec.convert(rights, _Principal)
        except msgspec.ValidationError as error:
            raise _refused(f"{name!r}: {error}", field, _FORM_OF_ONE) from error
        _check_root(principal.root, f"{field}.root")
        _known(principal.may, ("*", *ACTIONS), f"{field}.may")
        for action, rules in principal.may.items():
            for rule in rules:
                _check_rule(action, rule, f"{field}.may.{action}")
        principals[name] = principal
    return principals


def _check_root(root: str, field: str) -> None:
    if root and not root.endswith("/"):
        raise _refused(f"the root {root!r} does not end in '/'", field, "a prefix that ends in '/'")
    if root:
        try:
            validate_user_key(root.replace(_NAME, "x").removesuffix("/"))
        except InvalidKeyError as error:
            raise _refused(f"the root {root!r} is none: {error}", field, error.limit) from error


_NAMED = {"tasks": check_agent_id, "tables": table_name, "queues": queue_name}


def _check_rule(action: str, rule: str, field: str) -> None:
    if action == "operate":
        if rule != "*":
            raise _refused(f"operate has {rule[:80]!r}", field, '["*"]')
    elif action in NAMED_ACTIONS:
        if not rule or (rule != "*" and "*" in rule):
            raise _refused(f"{rule[:80]!r} is no name", field, "a whole name, or '*' for every one")
        try:
            if rule != "*":
                _NAMED[action](rule)
        except StorageError as error:
            raise _refused(f"{rule[:80]!r} is no name: {error}", field, error.limit) from error
    elif rule:
        try:
            validate_user_key(rule.removesuffix("/"))
        except InvalidKeyError as error:
            raise _refused(f"{rule[:80]!r} is no prefix: {error}", field, error.limit) from error


def _each_once(members: list[tuple[str, Any]]) -> None:
    """The decoder keeps the last of several members with one name: then nobody knows which one was meant."""
    seen: set[str] = set()
    for name, _ in members:
        if name in seen:
            raise _refused(f"the policy has {name[:80]!r} twice in one object", "policy", "each name once")
        seen.add(name)


def _known(found: Mapping[str, object], names: Sequence[str], field: str) -> None:
    try:
        refuse_unknown(found, names, "field")
    except UnknownNameError as error:
        raise _refused(f"{field}: {error.message}", field, error.limit) from error


def _refused(message: str, field: str, limit: str | None = None) -> ConfigurationError:
    return ConfigurationError(message, field=field, limit=limit)
