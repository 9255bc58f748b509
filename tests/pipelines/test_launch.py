"""What is refused of Beam's options before a run looks at anything."""

import pytest
from apache_beam.options.pipeline_options import StandardOptions

from beam_quad.errors import UsageError
from pipelines import quad, runners


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--runner=Dataflw"], r"^--runner=Dataflw is no runner of Beam's; pass one of DirectRunner, "),
        (["--runner=my.module.Runner"], r"^--runner=my.module.Runner is no runner .*No module named 'my'"),
        (["--runner=DataflowRunner"], r"^--runner=DataflowRunner needs --project, --region, --temp_location$"),
        (["--runner=dataflow", "--project=p-1", "--region=r"], r"DataflowRunner needs --temp_location$"),
        (["--runner=DataflowRunner", "--project=p-1", "--region=r", "--temp_location=/t"], r"^--temp_location=/t must be a folder of Cloud Storage"),
        (["--environment_type=EXTERNAL"], "--runner=FnApiRunner: "),
    ],
)  # fmt: skip
def test_a_runner_that_cannot_run_is_refused_in_a_line(flags, words, monkeypatch):
    monkeypatch.delenv("CLOUDSDK_COMPUTE_REGION", raising=False)
    with pytest.raises(UsageError, match=words) as refusal:
        runners.beam_options(flags)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("flags", "runner"),
    [
        ([], "FnApiRunner"),
        (["--runner=flink"], "FlinkRunner"),
        (["--runner=PRISM"], "PrismRunner"),
        (["--runner=DirectRunner", "--direct_running_mode=multi_processing"], "DirectRunner"),
        (["--direct_running_mode=multi_processing"], "DirectRunner"),
    ],
)
def test_a_runner_is_known_in_any_case(flags, runner):
    assert runners.beam_options(flags).view_as(StandardOptions).runner == runner


def test_a_runner_that_is_none_leaves_nothing_behind(world, tmp_path, capsys):
    arguments = [*world.arguments(tmp_path / "out"), "--runner=Dataflw"]
    assert quad.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: --runner=Dataflw is no runner")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["output", "artifacts"])
def test_a_file_is_no_folder_to_write_to(world, tmp_path, capsys, flag):
    (tmp_path / "file").touch()
    arguments = [*world.arguments(tmp_path / "out"), f"--{flag}={tmp_path}/file"]
    assert quad.main(arguments) == 2
    assert f"--{flag}={tmp_path}/file is a file; pass a folder" in capsys.readouterr().err
