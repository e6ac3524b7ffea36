""".funcignore, and what is deployed. It is written in a part of .gitignore's language."""

from __future__ import annotations

import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

CONFIGURATION = ("host.json",)
"""What the platform reads beside code."""

ABOUT = ("requirements.txt",)
"""What is not deployed itself, but said what is."""


class IgnoreFile:
    """Patterns in order, of which the last that matches decides.

    A pattern is a name or a path from the top (`*`, `?`), `/` at its end means folders, `!` takes back.

    :raises SystemExit: a line has what is not known here, rather than be passed over.
    """

    def __init__(self, text: str) -> None:
        self._rules: list[tuple[str, bool, bool]] = []
        for line in filter(None, (line.strip() for line in text.splitlines())):
            if line.startswith("#"):
                continue
            if "**" in line or "[" in line or "\\" in line:
                raise SystemExit(
                    f".funcignore: {line!r}: `**`, `[` and `\\` are not known here; write it without"
                )
            pattern = line.removeprefix("!")
            self._rules.append((pattern.rstrip("/"), pattern.endswith("/"), line.startswith("!")))

    def ignores(self, path: PurePosixPath, folder: bool) -> bool | None:
        """Whether this file or folder is left out (True) or taken back (False); None if no pattern matches.

        What is in a folder that is left out is not asked for.
        """
        found = None
        for pattern, folders, back in self._rules:
            whole = "/" in pattern
            subject = path.as_posix() if whole else path.name
            if (folder or not folders) and self._matches(subject, pattern.removeprefix("/")):
                found = not back
        return found

    @staticmethod
    def _matches(subject: str, pattern: str) -> bool:
        parts, patterns = subject.split("/"), pattern.split("/")
        return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


class Deployed(NamedTuple):
    files: list[PurePosixPath]
    """What is deployed, as paths below the project, in order."""
    strangers: list[str]
    """What lies at the top, is neither code nor named in .funcignore, and is therefore not deployed."""


def deployed(project: Path) -> Deployed:
    """What is deployed of a project.

    At its top that is host.json, modules and packages, unless .funcignore leaves them out, and what it takes
    back by `!`: a key or a dump that somebody keeps there has a name that no list foresees. Below, it is all
    that .funcignore does not leave out.

    :raises SystemExit: a link to a folder is among it, or .funcignore cannot be read.
    """
    ignored = IgnoreFile((project / ".funcignore").read_text(encoding="utf-8"))
    found: list[PurePosixPath] = []
    strangers: list[str] = []

    def taken(path: PurePosixPath, folder: bool) -> bool:
        said = ignored.ignores(path, folder)
        if said is None and len(path.parts) == 1:
            code = (project / path / "__init__.py").is_file() if folder else path.suffix == ".py"
            said = not code and path.name not in CONFIGURATION
            if said and path.name not in ABOUT:
                strangers.append(f"{path}/" if folder else str(path))
        return not said

    for folder, folders, names in project.walk():
        here = PurePosixPath(folder.relative_to(project).as_posix())
        folders[:] = [name for name in folders if taken(here / name, folder=True)]
        for name in names:
            linked = (folder / name).is_dir()
            if taken(here / name, folder=linked):
                if linked:
                    raise SystemExit(
                        f"{here / name} links to a folder, which is not followed: name it in .funcignore"
                    )
                found.append(here / name)
    return Deployed(sorted(found), sorted(strangers))
