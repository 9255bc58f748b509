import dataclasses

import pytest

from beam_quad.records import Budget
from beam_quad.report.data import Notice
from beam_quad.report.progress import (
    Failure,
    RunProgress,
    StageProgress,
    as_json,
    headline,
    lines,
)

READ = {"documents": 4500, "tokens": 1_800_000}
# Started at 1000. What an earlier run has read takes no part in its pace; its models take twice the plan, the rest half.
STAGES = (
    StageProgress("Embed", 5.0, True, 100.0, 900.0, 4, 0, 4, READ),
    StageProgress("Fit", 50.0, True, 1000.0, 1100.0, 8, 0, 8),
    StageProgress("Assign", 40.0, False, 1100.0, 1120.0, 4, 0, 4),
    StageProgress("Pilot", 10.0, True, 1120.0, None, 40, 10, 30),
    StageProgress("Round1", 30.0, True),
    StageProgress("Write", 60.0, False),
)
RUN = RunProgress(
    state="running", stages=STAGES, num_finished=3, started=1000.0, seen=1180.0, written=1176.0,
    documents=4600, input_bytes=2**20, stored_bytes=3 * 2**19, budget=Budget(100_000),
    owner="process 7 on host", failure=None,
)  # fmt: skip


def changed(number: int, run: RunProgress = RUN, **changes) -> RunProgress:
    stages = list(run.stages)
    stages[number] = dataclasses.replace(stages[number], **changes)
    return dataclasses.replace(run, stages=tuple(stages))


def test_a_stage_goes_on_at_the_rate_of_the_pieces_that_this_attempt_has_done():
    assert RUN.stage_to_go_s == pytest.approx(60 / (30 - 10) * (40 - 30))
    assert changed(3, planned_s=None).stage_to_go_s == RUN.stage_to_go_s


def test_before_its_first_piece_a_stage_takes_what_is_planned_at_the_pace_of_those_with_a_model():
    assert changed(3, done=10, planned_s=50.0).stage_to_go_s == pytest.approx(50 * 2 - 60)
    assert changed(3, done=10).stage_to_go_s == 0  # 60 s are more than planned


def test_later_stages_take_what_is_planned_at_the_pace_of_their_kind():
    assert RUN.to_go_s == pytest.approx(30 + 30 * 2 + 60 * 0.5)
    # Nothing is measured yet: the plan is all there is.
    first = dataclasses.replace(RUN, num_finished=1, stages=(STAGES[0], *map(unmade, STAGES[1:])))
    assert first.to_go_s == pytest.approx(50 + 40 + 10 + 30 + 60)


def unmade(stage: StageProgress) -> StageProgress:
    return StageProgress(stage.name, stage.planned_s, stage.is_model)


def test_without_a_plan_nothing_is_said_of_later_stages():
    run = dataclasses.replace(
        RUN, stages=tuple(dataclasses.replace(s, planned_s=None) for s in STAGES)
    )
    assert run.to_go_s is None
    assert headline(run).endswith("about 30 s to go in this stage")
    unlisted = changed(3, run, pieces=None, done=None, started=None)
    assert headline(unlisted) == "stage 4/6 Pilot"


def test_while_the_corpus_is_read_its_share_of_the_pieces_is_read():
    reading = dataclasses.replace(RUN, num_finished=0)
    reading = changed(0, reading, counts={}, ended=None, pieces=4, done=1)
    assert (reading.documents_read, reading.tokens) == (1150, None)
    assert "read      about 1,150 of 4,600 documents; the input has 1 MiB" in lines(reading)


def test_counts_are_of_all_finished_stages_and_the_last_says_what_is_accepted():
    run = changed(
        1, changed(2, counts={"scored": 5, "accepted": 900}), counts={"scored": 7, "accepted": 80}
    )
    assert (run.documents_read, run.tokens, run.scored, run.accepted) == (4500, 1_800_000, 12, 900)


def test_a_run_stands_in_a_few_lines():
    run = changed(2, counts={"scored": 360, "accepted": 12_000})
    assert headline(run) == (
        "stage 4/6 Pilot: 30 of 40 pieces done, 12,000 of 100,000 tokens accepted, about 2 min 00 s to go"
    )
    assert lines(run) == [
        "running   stage 4/6 Pilot: 30 of 40 pieces done",
        "read      4,500 documents, 1,800,000 tokens; the input has 1 MiB",
        "scores    360",
        "accepted  12,000 of 100,000 tokens of the budget (12.0 %)",
        "stored    1.5 MiB",
        "time      3 min 00 s so far, about 2 min 00 s to go",
        "held by   process 7 on host; last file 4.0 s ago",
    ]


def test_a_stopped_run_has_taken_the_time_to_its_last_sign_of_life_and_says_what_failed():
    run = dataclasses.replace(RUN, state="stopped", owner=None, seen=5000.0)
    assert (run.seconds, run.stage_to_go_s, run.to_go_s) == (176, None, None)
    failed = dataclasses.replace(run, failure=Failure(1180.0, "the disk is full"))
    assert failed.seconds == 180
    assert lines(failed)[-2:] == [
        "time      3 min 00 s so far",
        "failed    1 h 04 min ago, 1970-01-01T00:19:40+00:00: the disk is full",
    ]


def test_a_complete_run_has_taken_the_time_to_the_end_of_its_last_stage():
    run = dataclasses.replace(RUN, state="complete", num_finished=6, owner=None)
    run = changed(5, run, started=1200.0, ended=1300.0)
    assert (run.seconds, run.to_go_s) == (300, 0)
    run = dataclasses.replace(run, verdict="9 were selected.", notices=(Notice("few", "note"),))
    assert lines(run)[0] == "complete  6 stages"
    assert lines(run)[-3:] == [
        "time      5 min 00 s",
        "verdict   9 were selected.",
        "note      few",
    ]


def test_an_object_of_json_has_the_same_names_in_every_state():
    complete = dataclasses.replace(RUN, state="complete", num_finished=6, budget=None, started=None)
    failed = dataclasses.replace(RUN, failure=Failure(1180.0, "the disk is full"))
    shapes = [as_json(run) for run in (RUN, complete, failed)]
    assert {tuple(shape) for shape in shapes} == {tuple(shapes[0])}
    assert shapes[0]["stage"] == {
        "number": 4,
        "name": "Pilot",
        "pieces": 40,
        "pieces_done": 30,
        "seconds_to_go": 30.0,
    }
    assert (shapes[1]["stage"], shapes[1]["seconds"]) == (None, None)
    assert shapes[2]["failed"] == {"at": "1970-01-01T00:19:40+00:00", "error": "the disk is full"}


def test_scores_of_a_shortlist_count_and_not_the_n_grams_that_list_it():
    ngrams = StageProgress("ScoreNgrams", counts={"scored": 900})
    listed = StageProgress("ScoreShortlist", counts={"scored": 40})
    stages = (STAGES[0], ngrams, StageProgress("ScoreShortlist"))
    assert dataclasses.replace(RUN, stages=stages).scored is None
    assert dataclasses.replace(RUN, stages=(*stages[:2], listed)).scored == 40
    assert dataclasses.replace(RUN, stages=stages[:2]).scored == 900


def test_what_a_finished_run_read_is_what_its_last_stage_counted():
    written = dataclasses.replace(STAGES[5], counts={"documents": 4500, "tokens": 1_700_000})
    assert dataclasses.replace(RUN, stages=(*STAGES[:5], written)).tokens == 1_700_000
