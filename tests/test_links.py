"""The pages that people read: their links lead somewhere, and the first one is short."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    ROOT / name
    for name in (
        "README.md", "pipelines/README.md", "pipelines/FLAGS.md", "beam_quad/README.md", "templates/README.md",
        "templates/dataflow/README.md", "templates/flink/README.md", "tests/benchmarks/README.md",
    )
]  # fmt: skip


def anchors(page: pathlib.Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_of_it(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for link in links:
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_first_page_is_read_in_two_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 140
