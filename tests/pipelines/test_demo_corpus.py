import gzip
import json

import pyarrow.parquet as pq
import pytest

from beam_quad import errors
from pipelines.demo import corpus, noise, texts

SMALL = {"num_documents": 200, "num_shards": 4, "num_query": 20, "num_heldout": 20}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    result = corpus.Corpus(tmp_path_factory.mktemp("demo"), **SMALL)
    assert corpus.make_corpus(result)
    return result


def test_the_same_settings_give_the_same_bytes(made, tmp_path):
    again = corpus.Corpus(tmp_path, **SMALL)
    corpus.make_corpus(again)
    for path in (made.directory / "corpus").iterdir():
        assert (tmp_path / "corpus" / path.name).read_bytes() == path.read_bytes()


def test_every_domain_is_there_and_every_shard_mixes_them(made):
    documents = corpus.read_documents(made)
    assert {d.source for d in documents} == set(corpus.SHARES)
    for shard in (made.directory / "corpus").glob("*.parquet"):
        assert len(set(pq.read_table(shard)["source"].to_pylist())) > 8


def test_no_text_is_there_twice_nor_in_the_query_set(made):
    found = [d.text for d in corpus.read_documents(made)]
    found += corpus.read_jsonl(made.query_file) + corpus.read_jsonl(made.heldout_file)
    assert len(found) == len(set(found))


def test_broken_rows_of_every_kind_are_in_the_shards(made):
    folder = made.directory / "corpus"
    lines = [
        line for p in folder.glob("*.gz") for line in gzip.decompress(p.read_bytes()).splitlines()
    ]
    assert set(corpus._BROKEN_LINES) <= set(lines)
    assert any(None in pq.read_table(p)["text"].to_pylist() for p in folder.glob("*.parquet"))


def test_a_second_run_keeps_the_corpus_and_refuses_other_settings(made):
    assert not corpus.make_corpus(made)
    with pytest.raises(errors.UsageError, match="other settings"):
        corpus.make_corpus(corpus.Corpus(made.directory, **{**SMALL, "seed": 1}))


def test_pieces_end_at_paragraphs_and_lose_no_words():
    paragraph = "word " * 150
    text = "\n\n".join([paragraph.strip()] * 5)
    cut = list(texts.pieces(text))
    assert all(texts.MIN_CHARS <= len(piece) <= texts.MAX_CHARS for piece in cut)
    assert sum(len(piece.split()) for piece in cut) == len(text.split())
    assert all(piece.endswith("word") for piece in cut)


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(errors.UsageError, match=r"no_such_package.*pip install"):
        texts.package_folder("no_such_package")


def test_every_noise_domain_has_its_share():
    assert set(noise.NOISE) | set(texts.PROSE) == set(corpus.SHARES)


def test_rows_carry_where_they_come_from(made):
    line = made.query_file.read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(line)["origin"] == "MedQA/test.jsonl"
