"""Who may do what: an access policy, and a storage that can do only what one caller may.

    policy = Policy.parse(document)
    storage = confined(storage, policy.grant(["key:ceo"]))
    await storage.save("agents/ceo/notes", notes)   # ForbiddenError unless the policy allows it

docs/access.md has the form of a policy.
"""

from storage_lib.access.confined import confined
from storage_lib.access.policy import ACTIONS, Grant, Policy

__all__ = ["ACTIONS", "Grant", "Policy", "confined"]
