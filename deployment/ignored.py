""".funcignore, which says what is not deployed: the part of .gitignore's language that it uses."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


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

    def ignores(self, path: PurePosixPath, folder: bool) -> bool:
        """Whether this file or folder is left out. What is in a folder that is left out is not asked for."""
        found = False
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


def deployed(project: Path) -> Iterator[PurePosixPath]:
    """The files of a project that are deployed, as paths below it, in order."""
    ignored = IgnoreFile((project / ".funcignore").read_text(encoding="utf-8"))
    found: list[PurePosixPath] = []
    for folder, folders, names in project.walk():
        here = PurePosixPath(folder.relative_to(project).as_posix())
        folders[:] = [name for name in folders if not ignored.ignores(here / name, folder=True)]
        for name in names:
            linked = (folder / name).is_dir()
            if not ignored.ignores(here / name, folder=linked):
                if linked:
                    raise SystemExit(
                        f"{here / name} links to a folder, which is not followed: name it in .funcignore"
                    )
                found.append(here / name)
    yield from sorted(found)
