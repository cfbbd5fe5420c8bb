"""Writes the pages of the documentation site: `site.py FOLDER`.

The pages are those that people read in the repository. On the site they are in one folder: `docs/` is its root, the README its
first page, and other pages keep their paths. Links between them are changed accordingly. A link to a file of the code becomes the
file's path, because the site has no code; a link to something that does not exist is an error, here and in the repository.
"""

import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Pages outside docs/ that are part of the site.
OTHER_PAGES = [
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "helm/echogen/README.md",
    "training/README.md",
    "fuzz/README.md",
    "deploy/cuda/driver/README.md",
    "crates/models/examples/parity/FIXTURES.md",
]

# [text](target), also of an image; not in code.
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LIST = re.compile(r"(^(?![-*|>#\s]|\d+\. ).+\n)(?=(?:[-*]|\d+\.) )", re.MULTILINE)


def place(path: str) -> str:
    """Returns where a file of the repository is on the site."""
    if path == "README.md":
        return "index.md"
    return path.removeprefix("docs/")


def pages() -> list[str]:
    """Returns the paths of all pages in the repository."""
    own = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", *own, *OTHER_PAGES]


class Site:
    """The site in the making."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.pages = pages()
        self.errors: list[str] = []

    def write(self) -> None:
        """Writes all pages and the pictures they show."""
        for page in self.pages:
            target = self.folder / place(page)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(self.converted(page), encoding="utf-8")

    def converted(self, page: str) -> str:
        """Returns a page with links that fit the site."""
        text = (ROOT / page).read_text(encoding="utf-8")
        parts, end = [], 0
        for fence in FENCE.finditer(text):
            parts += [self.prose(page, text[end : fence.start()]), fence.group()]
            end = fence.end()
        return "".join([*parts, self.prose(page, text[end:])])

    def prose(self, page: str, text: str) -> str:
        """Converts what is not a block of code."""
        # GitHub begins a list below a paragraph's line, Python-Markdown below an empty one only.
        text = LIST.sub(r"\1\n", text)
        kept: list[str] = []

        def keep(code: re.Match[str]) -> str:
            kept.append(code.group())
            return f"\x00{len(kept) - 1}\x00"

        text = LINK.sub(lambda link: self.link(page, link), CODE.sub(keep, text))
        return re.sub("\x00(\\d+)\x00", lambda number: kept[int(number.group(1))], text)

    def link(self, page: str, link: re.Match[str]) -> str:
        """Returns a link, or the text that takes its place."""
        picture, text, target = link.groups()
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            return link.group()
        path, _, anchor = target.partition("#")
        found = os.path.normpath(os.path.join(os.path.dirname(page), path))
        if not (ROOT / found).exists():
            self.errors.append(f"{page}: there is no {target}")
            return text
        if picture:
            copy = self.folder / place(found)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / found, copy)
        elif found not in self.pages:
            return text if found.endswith(text.strip("`").rstrip("/")) else f"{text} (`{found}`)"
        to = os.path.relpath(place(found), os.path.dirname(place(page)) or ".")
        return f"{picture}[{text}]({to}{'#' + anchor if anchor else ''})"


def main() -> int:
    """Writes the pages; returns the exit code."""
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    site = Site(folder)
    site.write()
    for error in site.errors:
        print(error, file=sys.stderr)
    return 1 if site.errors else 0


if __name__ == "__main__":
    sys.exit(main())
