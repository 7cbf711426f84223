"""The pages: every link and anchor leads somewhere, the navigation is complete, versions agree, guides are short."""

import re

import pytest
import yaml
from gather_pages import ROOT, gather, links, pages, prose

import colld_fairseq

DOCS = ROOT / "docs"
PAGES = pages()


def anchors(page):
    """As GitHub makes them of headings."""
    names = []
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        names.append(f"{name}-{names.count(name)}" if name in names else name)
    return names


def test_anchors_are_githubs():
    """Of headings whose anchors were looked up there."""
    expected = {
        "RESULTS.md": "prompts-whisper-base-to-a-29-m-student-five-languages",
        "examples/multi_teacher_transducer/README.md": "librispeech-100-hours-of-labels-860-without",
    }
    for page, name in expected.items():
        assert name in anchors(ROOT / page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    wrong = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (page.parent / target).resolve() if target else page
        if not (there.exists() and there.is_relative_to(ROOT)):
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
    every = sorted(page.relative_to(ROOT).as_posix() for page in PAGES)
    assert sorted(navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])) == every
    shown = {(DOCS / link.partition("#")[0]).resolve() for link in links(DOCS / "index.md")}
    left_out = {page.relative_to(ROOT).as_posix() for page in PAGES if page.resolve() not in shown}
    assert left_out == {"docs/index.md", "examples/quickstart/LICENSES.md", "manifests/samples/LICENSE.md"}


def test_a_site_has_everything_that_its_pages_link_to(tmp_path):
    gather(tmp_path / "pages")
    copied = sorted((tmp_path / "pages").rglob("*.md"))
    assert [page.relative_to(tmp_path / "pages") for page in copied] == [page.relative_to(ROOT) for page in PAGES]
    for page in copied:
        files = [link.partition("#")[0] for link in links(page) if ":" not in link]
        assert not [link for link in files if not (page.parent / link).is_file() and link], page


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## ([\d.]+), (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest.groups() == (citation["version"], citation["date-released"])
    assert citation["version"] == colld_fairseq.__version__


def test_guides_for_contributors_are_short():
    sections = re.split(r"^## ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)[1:]
    assert {section.splitlines()[0] for section in sections} == {"Add a loss", "Add a teacher format", "Add a corpus"}
    assert all(len(section.strip().splitlines()) - 1 <= 15 for section in sections)
