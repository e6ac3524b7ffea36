"""What a template would deploy: resources with their ids, and what is known of the order and the outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.bicep_functions import SUBSCRIPTION, BicepError, Runtime, has_runtime


@dataclass
class Resource:
    """One resource as it would be sent: ``body`` without name, parent and scope. ``group`` is its resource
    group, empty for what is in none; ``module`` is the name of the module that it is in, empty for the main
    template; ``depends`` is what it says it waits for. One that is ``skipped``, for its condition is false,
    has a name and an id, but nothing that only a deployed one has."""

    type: str
    api: str
    name: str
    file: str
    body: dict[str, Any] = field(default_factory=dict[str, Any])
    parent: Resource | None = None
    scope: Resource | None = None
    existing: bool = False
    skipped: bool = False
    group: str = ""
    subscription: str = SUBSCRIPTION
    module: str = ""
    depends: list[Resource] = field(default_factory=list["Resource"])

    @property
    def full_name(self) -> str:
        return joined(self.parent.full_name, "/", self.name) if self.parent else self.name

    @property
    def id(self) -> str:
        at = self
        while at.parent:
            at = at.parent
        if at.scope is None:
            return resource_id(self.type, self.full_name, self.group, self.subscription)
        return joined(at.scope.id, resource_id(self.type, self.full_name, subscription=""))

    @property
    def properties(self) -> dict[str, Any]:
        return self.body.get("properties") or {}


@dataclass
class Deployment:
    """All that one template deploys, modules included."""

    resources: list[Resource] = field(default_factory=list[Resource])
    waits: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """For each module, by its name, the modules that come before it because it says so or uses them."""
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    ids: set[str] = field(default_factory=set[str])

    def of(self, kind: str) -> list[Resource]:
        """The resources of a type that are deployed (not the ``existing`` ones), in the order of the text."""
        return [r for r in self.resources if r.type.lower() == kind.lower() and not r.existing]


GROUP = "Microsoft.Resources/resourceGroups"


def resource_id(kind: str, name: str, group: str = "", subscription: str = SUBSCRIPTION) -> str:
    """Without a subscription, it is of the tenant, or the end of the id of what has the scope of another."""
    home = f"/subscriptions/{subscription}" if subscription else ""
    if kind.lower() == GROUP.lower():
        return f"{home}/resourceGroups/{name}"
    provider, *types = kind.split("/")
    names = name.split("/")
    if not types or len(types) != len(names):
        raise BicepError(f"{name!r} is no name for {kind}")
    pairs = "/".join(f"{t}/{n}" for t, n in zip(types, names, strict=True))
    found = f"{home}{f'/resourceGroups/{group}' if group else ''}/providers/{provider}/{pairs}"
    return Runtime(found) if isinstance(name, Runtime) else found


def joined(*texts: str) -> str:
    """Texts as one, which is known when all of them are."""
    return (Runtime if has_runtime([*texts]) else str)("".join(texts))
