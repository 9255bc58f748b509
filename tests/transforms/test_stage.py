"""What a stage is on Beam: a transform, with counters at its steps."""

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.testing import util as testing

from beam_quad.artifacts import clock, files, traffic
from beam_quad.transforms import DoPieces, RunStage, counters, start
from tests.stages.letters import CountInitials, CountLetters


def test_alone_a_stage_is_a_transform_from_pieces_to_statistics(tmp_path):
    with beam.Pipeline("FnApiRunner") as pipeline:
        counts = pipeline | beam.Create(["a", "bcd"]) | DoPieces(CountLetters(str(tmp_path), ()))
        testing.assert_that(
            counts | beam.Map(lambda counted: counted.statistic["letters"]),
            testing.equal_to([1, 3]),
        )


def test_bytes_are_counted_once_at_the_step_that_reads_shuffles_and_stores_them(tmp_path):
    files.write_once(str(tmp_path / "outside"), b"not in a step, so not counted")
    pipeline = beam.Pipeline("FnApiRunner")
    stage = CountsBytes(str(tmp_path), ("alpha", "be"))
    _ = start(pipeline, "nowhere") | "First" >> RunStage(stage)
    result = pipeline.run()
    result.wait_until_finish()
    assert counters.total(result, "bytes_read") == 3 * len("alphabe")
    # The words are shuffled by their length, and the lengths by their initial.
    assert counters.total(result, "bytes_shuffled") == len("alphabe" + "52")
    clocks = sum(path.stat().st_size for path in tmp_path.glob("total.json.*"))
    assert counters.total(result, "bytes_stored") == clocks
    # The same is known of the stage itself, but for what its clock takes.
    counted = clock.read(stage.clock, "ended")["traffic"]
    assert counted == {"bytes_read": 3 * len("alphabe"), "bytes_shuffled": len("alphabe" + "52")}


def test_pieces_that_are_found_finished_are_counted(tmp_path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "be.json").write_text('{"letters": 2}')
    pipeline = beam.Pipeline("FnApiRunner")
    _ = start(pipeline, "nowhere") | "First" >> RunStage(CountLetters(str(tmp_path), ("a", "be")))
    result = pipeline.run()
    result.wait_until_finish()
    query = MetricsFilter().with_namespace("beam_quad").with_name("CountLetters_reused")
    assert [x.result for x in result.metrics().query(query)["counters"]] == [1]


class CountsBytes(CountInitials):
    """Says of each piece that it read three times its bytes."""

    def draw(self, piece):
        traffic.count("bytes_read", 3 * len(piece))
        yield from super().draw(piece)
