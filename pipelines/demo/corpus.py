"""Makes the demo's corpus and query set, in shards as a crawl would bring them: mixed, and a little broken."""

import dataclasses
import gzip
import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad import errors, seeding
from pipelines.demo import noise, texts

# Documents of each domain among 1,000. A domain with fewer texts gives what it has.
SHARES = {
    "biomedicine": 80,
    "clinic": 40,
    "encyclopedia": 90,
    "biography": 60,
    "news": 90,
    "law": 70,
    "contracts": 50,
    "finance": 60,
    "fiction": 70,
    "verse": 40,
    "code": 70,
    "gibberish": 60,
    "word_lists": 40,
    "shuffled_words": 60,
    "licences": 40,
    "id_lists": 40,
    "dumps": 20,
    "html": 20,
}
BROKEN = "broken"
_SCHEMA = pa.schema([("text", pa.string()), ("source", pa.string()), ("origin", pa.string())])
_BROKEN_LINES = (
    b'{"text": "This row was cut off while it was being wri',
    b'{"text": "\xff\xfe is not UTF-8", "source": "broken", "origin": "demo"}',
    b'{"text": 17, "source": "broken", "origin": "demo"}',
    b'{"text": null, "source": "broken", "origin": "demo"}',
    b'{"text": "", "source": "broken", "origin": "demo"}',
    b'{"text": "x", "source": "broken", "origin": "demo"}',
)
_BROKEN_TEXTS = (None, "", "x")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The folder of a corpus, and its ingredients.

    Attributes:
      directory: Its folder: `corpus/`, `query/`, `heldout/` and `corpus.json`.
      num_documents: Usable documents asked for; small domains may leave it short.
      num_shards: Shards, Parquet and JSONL by turns.
      query: The query set's name in `texts.QUERIES`.
      num_query: Texts to steer the selection.
      num_heldout: Texts of the same source, which only measure the result.
      seed: The seed of every draw.
    """

    directory: pathlib.Path
    num_documents: int = 6000
    num_shards: int = 12
    query: str = "medicine"
    num_query: int = 200
    num_heldout: int = 200
    seed: int = 0

    @property
    def shards(self) -> str:
        """The glob of the corpus."""
        return str(self.directory / "corpus" / "*")

    @property
    def query_file(self) -> pathlib.Path:
        """The texts to steer the selection."""
        return self.directory / "query" / "query.jsonl"

    @property
    def heldout_file(self) -> pathlib.Path:
        """Texts of the query's source, read by nothing else."""
        return self.directory / "heldout" / "heldout.jsonl"

    def settings(self) -> dict[str, object]:
        """Returns what decides the content."""
        settings = dataclasses.asdict(self)
        del settings["directory"]
        return settings


def make_corpus(corpus: Corpus) -> bool:
    """Writes the shards, the query set and its held-out part, unless they are there.

    The same settings give the same bytes on one installation of Python and the texts' packages.

    Returns:
      Whether anything was written.

    Raises:
      UsageError: If the directory holds a corpus of other settings, or a package of texts is missing.
    """
    marker = corpus.directory / "corpus.json"
    if marker.exists():
        if json.loads(marker.read_text())["settings"] != corpus.settings():
            raise errors.UsageError(
                f"{corpus.directory} holds a demo corpus of other settings; pass another --output"
            )
        return False
    query, heldout = _query_texts(corpus)
    documents = _draw_documents(corpus, exclude={d.text for d in (*query, *heldout)})
    _write_shards(corpus, documents)
    _write_jsonl(corpus.query_file, query)
    _write_jsonl(corpus.heldout_file, heldout)
    sources, counts = np.unique([d.source for d in documents], return_counts=True)
    made = {
        "settings": corpus.settings(),
        "documents": dict(zip(sources.tolist(), counts.tolist(), strict=True)),
    }
    marker.write_text(
        json.dumps(made, indent=2) + "\n"
    )  # last: an interrupted corpus is made again
    return True


def read_documents(corpus: Corpus) -> list[texts.Document]:
    """Reads the usable documents of the shards, in the order of their names."""
    rows: list[dict[str, object]] = []
    for path in sorted((corpus.directory / "corpus").iterdir()):
        rows += pq.read_table(path).to_pylist() if path.suffix == ".parquet" else _read_gz(path)
    return [texts.Document(**row) for row in rows if row["source"] != BROKEN]  # type: ignore[arg-type]


def read_jsonl(path: pathlib.Path) -> list[str]:
    """Reads the texts of a JSONL file."""
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def _read_gz(path: pathlib.Path) -> list[dict[str, object]]:
    lines = gzip.decompress(path.read_bytes()).splitlines()
    return [json.loads(line) for line in lines if line not in _BROKEN_LINES]


def _query_texts(corpus: Corpus) -> tuple[list[texts.Document], list[texts.Document]]:
    found = _draw(
        corpus.query,
        texts.QUERIES[corpus.query],
        corpus.num_query + corpus.num_heldout,
        corpus.seed,
    )
    return found[: corpus.num_query], found[corpus.num_query :]


def _draw_documents(corpus: Corpus, exclude: set[str]) -> list[texts.Document]:
    readers = {**texts.PROSE, **noise.readers(corpus.seed, corpus.num_documents // 12)}
    documents: list[texts.Document] = []
    for source, share in SHARES.items():
        wanted = round(corpus.num_documents * share / sum(SHARES.values()))
        documents += _draw(source, readers[source], wanted, corpus.seed, exclude)
    return _in_hash_order(documents, corpus.seed, "shuffle")


def _draw(
    source: str,
    reader: texts.Reader,
    wanted: int,
    seed: int,
    exclude: Iterable[str] = (),
) -> list[texts.Document]:
    """Draws documents of a domain by hash; of equal texts there is one."""
    seen = set(exclude)
    documents: list[texts.Document] = []
    for text, origin in reader():
        for piece in texts.pieces(text):
            if piece not in seen:
                seen.add(piece)
                documents.append(texts.Document(piece, source, origin))
    return _in_hash_order(documents, seed, "draw")[:wanted]


def _in_hash_order(
    documents: Sequence[texts.Document], seed: int, purpose: str
) -> list[texts.Document]:
    hashes = seeding.mix(seed, purpose, seeding.keys(d.text for d in documents))
    return [documents[i] for i in np.argsort(hashes, kind="stable")]


def _write_shards(corpus: Corpus, documents: Sequence[texts.Document]) -> None:
    folder = corpus.directory / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(corpus.num_shards):
        rows = [dataclasses.asdict(d) for d in documents[shard :: corpus.num_shards]]
        name = f"part-{shard:05d}-of-{corpus.num_shards:05d}"
        if shard % 2 == 0:
            broken = _BROKEN_TEXTS[shard // 2 : shard // 2 + 1]
            rows[5:5] = [{"text": text, "source": BROKEN, "origin": "demo"} for text in broken]
            table = pa.Table.from_pylist(rows, schema=_SCHEMA)
            pq.write_table(table, folder / f"{name}.parquet", row_group_size=200)
        else:
            lines = [_as_line(row) for row in rows]
            lines[5:5] = _BROKEN_LINES[shard // 2 :: corpus.num_shards // 2]
            content = gzip.compress(b"\n".join(lines) + b"\n", mtime=0)
            (folder / f"{name}.jsonl.gz").write_bytes(content)


def _write_jsonl(path: pathlib.Path, documents: Sequence[texts.Document]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(_as_line(dataclasses.asdict(d)) + b"\n" for d in documents))


def _as_line(row: dict[str, object]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8")
