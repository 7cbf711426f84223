"""The pages: every link and anchor leads somewhere, the navigation is complete, versions agree, guides are short."""

import re
from pathlib import Path

import pytest
import yaml

import colld_fairseq

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *DOCS.rglob("*.md"),
        *(REPOSITORY / "examples").rglob("*.md"),
        *(REPOSITORY / "manifests").rglob("*.md"),
    ]
)


def prose(page):
    """Without blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """As GitHub makes them of headings."""
    names = []
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        names.append(f"{name}-{names.count(name)}" if name in names else name)
    return names


def links(page):
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def test_anchors_are_githubs():
    """Of headings whose anchors were looked up there."""
    expected = {
        "RESULTS.md": "prompts-whisper-base-to-a-29-m-student-five-languages",
        "examples/multi_teacher_transducer/README.md": "librispeech-100-hours-of-labels-860-without",
    }
    for page, name in expected.items():
        assert name in anchors(REPOSITORY / page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(page):
    wrong = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (page.parent / target).resolve() if target else page
        if not (there.exists() and there.is_relative_to(REPOSITORY)):
            wrong.append(link)
        elif anchor and anchor not in anchors(there):
            wrong.append(f"{link}: the page has no such heading")
    assert not wrong


def test_there_are_links():
    assert sum(len(links(page)) for page in PAGES) > 200 and any(
        "#" in link for link in links(DOCS / "methods" / "colld.md")
    )


def navigation(entry):
    """Files of a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    return [name for part in (entry if isinstance(entry, list) else entry.values()) for name in navigation(part)]


def test_navigation_and_overview_have_every_page():
    pages = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
    assert sorted(navigation(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"])) == pages
    assert {"index.md", *links(DOCS / "index.md")} >= set(pages)


def test_versions_agree():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    newest = re.search(r"^## ([\d.]+), (\S+)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest.groups() == (citation["version"], citation["date-released"])
    assert citation["version"] == colld_fairseq.__version__


def test_guides_for_contributors_are_short():
    sections = re.split(r"^## ", (REPOSITORY / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)[1:]
    assert {section.splitlines()[0] for section in sections} == {"Add a loss", "Add a teacher format", "Add a corpus"}
    assert all(len(section.strip().splitlines()) - 1 <= 15 for section in sections)
