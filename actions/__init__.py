"""What the app can do: every module here registers an action with `@task`, under its own name.

Importing this package imports them all. The app does so when it first looks an action up, never at a cold
start. A package in here is what an action is made of, not an action. What an action needs beyond the storage,
it imports when it runs.
"""

from importlib import import_module
from pkgutil import iter_modules

for _found in iter_modules(__path__, f"{__name__}."):
    if not _found.ispkg:
        import_module(_found.name)
