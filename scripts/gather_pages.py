"""The pages as one tree, for a site: `make site`.

    python scripts/gather_pages.py build/pages

Pages lie where they are read: the front page and the results in the root, recipes in examples/, guides in docs/. A site
is made of one folder. Copied there, in the same places, are all pages and the files that they link to.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import List, Set

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("docs", "examples", "manifests")


def pages() -> List[Path]:
    return sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])


def prose(page: Path) -> str:
    """Without blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> List[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def linked_files(page: Path) -> Set[Path]:
    """Files of the repository that a page links to or shows."""
    targets = ((page.parent / link.partition("#")[0]).resolve() for link in links(page) if ":" not in link)
    return {target for target in targets if target.is_file() and target.is_relative_to(ROOT)}


def gather(folder: Path) -> None:
    """What was there before is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    every = pages()
    for source in sorted({*every, *(file for page in every for file in linked_files(page))}):
        target = folder / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


if __name__ == "__main__":
    gather(Path(sys.argv[1]))
