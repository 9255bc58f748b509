"""Prompts and answers through whole chains, held to the pages in memory on the same texts."""

import collections
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_quad import answers, distill, proof, rivals, score_influence, select
from beam_quad.answers import ChatTemplate
from beam_quad.errors import UsageError
from beam_quad.gradients import ProxySpec, load_proxy, load_tokenizer, tokenize
from beam_quad.records import Reason
from beam_quad.stages import run_in_process
from beam_quad.stages.proof.train import TrainOn
from pipelines import prove_chain, prove_options, quad
from pipelines.inputs import look
from tests.pipelines.world import (
    KINDS,
    World,
    manifest_of,
    read_texts,
    selected_ids,
    selected_rows,
    text_of,
)

PROMPTS = {"prompt_column": "prompt", "text_column": "answer"}
# As `World.arguments`, of which the pages know these.
SHARED = {"budget_tokens": 3000, "embedder": "hashing", "curvature_examples": 48}
TEMPLATE = "{% for m in messages %}common1 {{ m['content'] }} common2 {% endfor %}"
QUAD = {"num_clusters": 12, "max_cluster_share": 0.5}


def pair(rng, kind, prompt_words=9):
    """A prompt of no kind, and an answer of one."""
    prompt = " ".join(f"common{rng.integers(40)}" for _ in range(prompt_words))
    return {"prompt": prompt, "answer": text_of(rng, kind)}


def messages_of(row):
    turns = [{"role": "user", "content": row["prompt"]}] if row["prompt"] else []
    return [*turns, {"role": "assistant", "content": row["answer"]}]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def asked(world, tmp_path_factory):
    """A world of prompts and answers, some of whose prompts are longer than the window of 64, and one answer."""
    found = World(tmp_path_factory.mktemp("asked"))
    (found.root / "proxy").symlink_to(world.proxy)
    rng = np.random.default_rng(5)
    rows = [pair(rng, KINDS[i % 5], 80 if i % 7 == 0 else 9) for i in range(400)]
    rows[10]["prompt"] = None
    rows[31]["answer"] = " ".join(["law1"] * 64)
    (found.root / "corpus").mkdir()
    (found.root / "query").mkdir()
    for row in rows:
        row["messages"] = messages_of(row)
    write(found.root / "corpus" / "a.parquet", rows[:200])
    write(found.root / "corpus" / "b.jsonl", rows[200:])
    query = [pair(rng, "biology") for _ in range(24)]
    for row in query:
        row["messages"] = messages_of(row)
    write(found.root / "query" / "query.jsonl", query)
    return found, rows, query


def texts_of(rows):
    return [answers.answer(row["prompt"] or "", row["answer"]) for row in rows]


def ids_of(rows):
    return [f"a.parquet#{i}" if i < 200 else f"b.jsonl#{i - 200}" for i in range(len(rows))]


def test_quad_selects_and_scores_by_the_answers_as_the_page_does(asked, tmp_path):
    world, rows, query = asked
    for acceptance in ("block", "shortlist"):
        output = tmp_path / acceptance
        manifest = world.run(output, acceptance=acceptance, **PROMPTS)
        own = {"num_rounds": 4, "blocks_per_cluster": 4} if acceptance == "block" else {}
        expected = select(
            texts_of(rows), texts_of(query), ProxySpec(world.proxy, num_threads=1),
            ids=ids_of(rows), acceptance=acceptance, **SHARED, **QUAD, **own,
        )  # fmt: skip
        assert selected_ids(output) == sorted(expected.ids[i] for i in expected.indices)
        at = {own: i for i, own in enumerate(expected.ids)}
        scored = 0
        for row in selected_rows(output):
            why = row["beam_quad"]
            # The budget counts what a model would read: prompt and answer.
            assert why["tokens"] == len(f"{row['prompt'] or ''} {row['answer']}".split())
            if why["influence"] is not None:
                influence = expected.influence[at[why["example_id"]]]
                assert why["influence"] == pytest.approx(influence, rel=1e-3, abs=1e-6)
                scored += 1
        assert scored
        rejected = manifest["counts"]["rejected"]
        assert (rejected, manifest["rejected"]) == (1, {"long_answer": 1})


def test_influence_distillation_selects_by_the_answers_as_the_page_does(asked, tmp_path):
    world, rows, query = asked
    world.distill(tmp_path / "out", **PROMPTS)
    expected = distill(
        texts_of(rows), texts_of(query), ProxySpec(world.proxy, num_threads=1),
        ids=ids_of(rows), num_landmarks=200, **SHARED,
    )  # fmt: skip
    assert selected_ids(tmp_path / "out") == sorted(expected.ids[i] for i in expected.indices)


@pytest.mark.parametrize("policy", ["dsir", "ngram", "loss_drop", "similarity"])
def test_rivals_rank_by_the_answers_as_they_do_in_memory(asked, tmp_path, policy):
    world, rows, query = asked
    world.run(tmp_path / "out", policy=policy, **PROMPTS)
    texts, ids = texts_of(rows), ids_of(rows)
    spec = ProxySpec(world.proxy, num_threads=1)
    rival = "similarity_best" if policy == "similarity" else policy
    scores = rivals.score(rival, texts, texts_of(query), spec, ids=ids, embedder="hashing")
    tokens = np.array([len(own) for own in tokenize(load_tokenizer(world.proxy), texts)])
    chosen = rivals.select_by(scores, tokens, SHARED["budget_tokens"], ids=ids)
    assert selected_ids(tmp_path / "out") == sorted(ids[i] for i in chosen)


def test_embeddings_are_of_prompts_and_answers_without_a_mark(asked):
    world, rows, query = asked
    spec = ProxySpec(world.proxy, num_threads=1)
    marked, plain = (
        rivals.score("similarity_best", texts_of(rows), texts_of(query), spec, embedder="hashing"),
        rivals.score(
            "similarity_best",
            answers.all_plain(texts_of(rows)),
            answers.all_plain(texts_of(query)),
            spec,
            embedder="hashing",
        ),
    )
    usable = np.isfinite(marked)  # all but the answer that is too long
    assert usable.sum() == len(rows) - 1
    np.testing.assert_array_equal(marked[usable], plain[usable])


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_conversations_are_selected_as_the_texts_that_they_are_written_as(
    asked, tmp_path, template
):
    world, rows, query = asked
    proxy = tmp_path / "proxy"
    shutil.copytree(world.proxy, proxy)
    tokenizer = load_tokenizer(world.proxy)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(proxy)
    flags = {"acceptance": "shortlist", "messages_column": "messages", "proxy_model": proxy}
    world.launch(tmp_path / "out", **flags)
    of_tokenizer = ChatTemplate.of(load_tokenizer(str(proxy)))
    assert (of_tokenizer is None) == (template is None)
    texts, queries = (
        [answers.conversation(row["messages"], of_tokenizer) for row in own]
        for own in (rows, query)
    )
    expected = select(
        texts, queries, ProxySpec(str(proxy), num_threads=1),
        ids=ids_of(rows), acceptance="shortlist", **SHARED, **QUAD,
    )  # fmt: skip
    assert selected_ids(tmp_path / "out") == sorted(expected.ids[i] for i in expected.indices)


def test_a_query_of_answers_scores_a_corpus_of_plain_texts(world, asked, tmp_path):
    _, _, query = asked
    write(tmp_path / "query.parquet", query)
    named = {"query_prompt_column": "prompt", "query_text_column": "answer"}
    flags = {"policy": "influence_top_k", "query": tmp_path / "query.parquet"}
    world.run(tmp_path / "out", **flags, **named)
    texts, ids = read_texts(world.corpus)
    influence = score_influence(
        texts, texts_of(query), ProxySpec(world.proxy, num_threads=1),
        ids=ids, curvature_examples=48,
    )  # fmt: skip
    expected = dict(zip(ids, influence, strict=True))
    for row in selected_rows(tmp_path / "out"):
        why = row["beam_quad"]
        own = expected[why["example_id"]]
        assert why["influence"] == pytest.approx(own, rel=1e-3, abs=1e-7)


def test_rows_without_a_prompt_or_an_answer_are_told_apart(world, tmp_path):
    rng = np.random.default_rng(1)
    rows = [pair(rng, "law") for _ in range(40)]
    rows[3]["prompt"] = 7
    rows[4]["answer"] = "  "
    rows[5]["answer"] = None
    rows[6]["answer"] = " ".join(["law1"] * 65)
    rows[7]["prompt"], rows[7]["answer"] = "", "law1"
    write(tmp_path / "a.jsonl", [row | {"n": 5} for row in rows])
    for tokens_column in (None, "n"):
        manifest = world.run(
            tmp_path / f"out-{tokens_column}", input=tmp_path / "a.jsonl", policy="random",
            budget_tokens=100, query=None, tokens_column=tokens_column, **PROMPTS,
        )  # fmt: skip
        assert manifest["rejected"] == {
            "empty_text": 1, "long_answer": 1, "no_answer": 1, "not_a_string": 1, "null_text": 1,
        }  # fmt: skip
    assert manifest["counts"]["selected"] == 20
    talks = [messages_of(row) for row in rows[8:]]
    talks[:4] = [None, "hello", [{"role": "user", "content": "law1"}], [{"role": "assistant"}]]
    write(tmp_path / "b.jsonl", [{"messages": talk} for talk in talks])
    manifest = world.run(
        tmp_path / "talks", input=tmp_path / "b.jsonl", policy="random", budget_tokens=200,
        query=None, messages_column="messages",
    )  # fmt: skip
    assert manifest["rejected"] == {"no_answer": 2, "null_text": 1, "schema_mismatch": 1}


def test_a_query_text_whose_answer_is_too_long_is_counted_by_its_reason(asked, tmp_path):
    world, _, query = asked
    long = {"prompt": "law1", "answer": " ".join(["law2"] * 70)}
    write(tmp_path / "query.jsonl", [*query, long])
    for policy in ("influence_top_k", "ngram", "loss_drop"):
        world.run(tmp_path / policy, policy=policy, query=tmp_path / "query.jsonl", **PROMPTS)
        (group,) = manifest_of(tmp_path / policy)["query"].values()
        assert (group["used"], group["unused"]) == (24, {"long_answer": 1})


def test_a_base_with_another_prompt_column_is_refused(asked, tmp_path):
    world, _, _ = asked
    world.run(tmp_path / "base", policy="random", query=None, **PROMPTS)
    flags = {"policy": "random", "query": None, "text_column": "answer", "base": tmp_path / "base"}
    with pytest.raises(
        UsageError, match=r"--prompt_column was prompt in --base=.* and is not given"
    ):
        world.run(tmp_path / "next", **flags)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"prompt_column": "question", "text_column": "answer"}, "no column 'question'; pass --prompt_column"),
        ({**PROMPTS, "query_prompt_column": "q"}, "no column 'q'; pass --query_prompt_column"),
        ({"messages_column": "answer"}, "the messages column 'answer' is string, not a list"),
        ({**PROMPTS, "messages_column": "messages"}, "leave --prompt_column out"),
        ({**PROMPTS, "query_messages_column": "messages", "query_prompt_column": "prompt"}, "leave --query_prompt_column"),
        ({**PROMPTS, "query": "note.txt"}, "a .txt file has no prompt"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_are_refused_in_one_line(asked, tmp_path, capsys, flags, words):
    world, _, _ = asked
    if flags.get("query") == "note.txt":
        (tmp_path / "note.txt").write_text("law1 law2")
        flags = flags | {"query": tmp_path / "note.txt"}
    assert quad.main(world.arguments(tmp_path / "out", **flags)) == 2
    message = capsys.readouterr().err.strip()
    assert words in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_query_columns_are_the_corpus_s_unless_they_are_given(asked, tmp_path):
    world, _, query = asked
    write(tmp_path / "plain.jsonl", [{"text": row["answer"]} for row in query])
    flags = {"query": tmp_path / "plain.jsonl", "policy": "dsir", **PROMPTS}
    named = {"query_prompt_column": "", "query_text_column": "text"}
    world.run(tmp_path / "out", **flags, **named)
    world.run(tmp_path / "asked", policy="dsir", **PROMPTS)
    # DSIR looks at answers alone, so that it sees one query set twice.
    assert selected_ids(tmp_path / "out") == selected_ids(tmp_path / "asked")


def test_every_reason_keeps_its_code():
    # Codes are stored with rows: new reasons come last.
    names = ("EXCLUDED", "CONTAMINATED", "NO_ANSWER", "LONG_ANSWER", "NEAR_DUPLICATE")
    assert [reason.name for reason in list(Reason)[-5:]] == list(names)
    assert max(collections.Counter(Reason).values()) == 1


def test_a_proof_trains_and_measures_on_answers(asked, tmp_path):
    world, rows, query = asked
    output = tmp_path / "out"
    world.run(output, policy="dsir", prove=True, **PROMPTS)
    flags = ["--policies=random", "--seeds=1", "--proof_tokens=1500", "--threads=1"]
    options, _ = prove_options.parse([f"--output={output}", *flags])
    built = prove_chain.build(options, look(options))
    built.write_plans()
    run_in_process(built.stages)
    trained = next(stage for stage in built.stages if isinstance(stage, TrainOn))
    for drawn in trained.measured.drawn:
        assert set(drawn.texts(0, 1500)) <= set(texts_of(rows))
    held_out = trained.measured.texts()["held_out"]
    assert sorted(held_out) == sorted(proof.divide(texts_of(query))[1])
    # Of the loss that is measured, the answers' tokens alone are a part.
    proxy = load_proxy(ProxySpec(world.proxy, num_threads=1))
    losses = proof.measure(proxy, held_out)
    words = sum(len(answers.answers_of(text).split()) for text in held_out)
    assert losses.counts.sum() == words
    found = json.loads((output / "proof.json").read_text())
    assert found["held_out"]["before"] == pytest.approx(losses.mean, rel=1e-5)


def test_a_run_goes_on_from_a_selection_of_answers(asked, tmp_path):
    world, rows, _ = asked
    flags = {"acceptance": "shortlist", "input_root": world.corpus, **PROMPTS}
    first = {"input": f"{world.corpus}/a.parquet", "budget_tokens": 1500}
    world.run(tmp_path / "base", **flags | first)
    world.run(tmp_path / "next", base=tmp_path / "base", **flags)
    found = selected_ids(tmp_path / "next")
    assert set(selected_ids(tmp_path / "base")) < set(found)
    assert any(own.startswith("b.jsonl") for own in found)
    influence = score_influence(
        texts_of(rows[:200]), texts_of(asked[2]), ProxySpec(world.proxy, num_threads=1),
        ids=ids_of(rows[:200]), curvature_examples=48, layers="all+head", normalize=True,
    )  # fmt: skip
    expected = dict(zip(ids_of(rows[:200]), influence, strict=True))
    for row in selected_rows(tmp_path / "next"):
        why = row["beam_quad"]
        if why["example_id"] in expected:
            own = expected[why["example_id"]]
            assert why["influence"] == pytest.approx(own, rel=1e-3, abs=1e-6)
