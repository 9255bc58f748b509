"""What runs on a GPU, on a CPU: the same functions, small."""

import types

import numpy as np
import pytest
import torch
import transformers
from torch.autograd import DeviceType

from beam_quad.scoring import InfluenceScorer
from tests.benchmarks.gpu import __main__ as gpu
from tests.benchmarks.gpu import families
from tests.benchmarks.gpu.rates import Profile, Size

CPU = torch.device("cpu")
SMALL = Size(
    config=transformers.LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    ),
    layers="attention", micro_batch=256, scored=4, fitted=4, embedded=4, mean_tokens=20,
)  # fmt: skip


def test_checks_and_rates_run_through_and_leave_their_json(capsys):
    found = gpu.run(CPU, torch.float32, SMALL, ("qwen2",), peak=1e12)
    assert found["right"]
    assert not found["unchecked"]
    assert [rate["name"] for rate in found["rates"]] == ["embedding", "scoring", "curvature fit"]
    for rate in found["rates"]:
        assert rate["share_of_rate"] == pytest.approx(rate["flops_per_s"] / 1e12)
        assert 0 < rate["busy"] <= 1
        assert rate["profile"]["kernels"] > 100
    assert "qwen2         right" in capsys.readouterr().out


def test_families_whose_turn_has_not_come_in_time_are_named():
    assert gpu.run(CPU, torch.float32, SMALL, ("olmoe", "llama"), None, checks_s=-1)[
        "unchecked"
    ] == ["olmoe", "llama"]


def test_a_family_that_is_wrong_is_told_from_one_that_is_right(monkeypatch):
    score = InfluenceScorer.score
    noise = np.random.default_rng(0)

    def noisy(scorer, texts):
        found = score(scorer, texts)
        return found + noise.normal(0, 1e-3 * np.abs(found).max(), found.shape)

    monkeypatch.setattr(InfluenceScorer, "score", noisy)
    found = families.check("gpt2", CPU)
    assert found.error > families.MOST_ERROR
    assert not found.is_repeatable
    assert not found.is_right


def test_an_operator_without_a_deterministic_kernel_is_a_failure_of_its_family(monkeypatch):
    def refuse(scorer, texts):
        raise RuntimeError("put_ does not have a deterministic implementation")

    monkeypatch.setattr(InfluenceScorer, "score", refuse)
    found = families.check("gpt2", CPU)
    assert not found.is_right
    assert "deterministic" in found.failure


def event(name, device_type, start, end, cpu_children=()):
    span = types.SimpleNamespace(start=start, end=end)
    return types.SimpleNamespace(
        name=name, device_type=device_type, time_range=span, cpu_children=cpu_children
    )


def test_kernels_that_overlap_are_counted_each_and_timed_once():
    cpu, cuda = DeviceType.CPU, DeviceType.CUDA
    found = Profile.of(
        [
            event("aten::mm", cpu, 0, 900_000),
            event("cudaLaunchKernel", cpu, 1, 2),
            event("sgemm", cuda, 100_000, 300_000),
            event("Memcpy DtoH", cuda, 200_000, 400_000),
            event("softmax", cuda, 500_000, 600_000),
            event("cudaStreamSynchronize", cpu, 600_000, 700_000),
        ],
        cuda,
    )
    assert (found.kernels, found.synchronisations) == (3, 1)
    assert found.device_s == pytest.approx(0.4)


def test_a_machine_without_a_gpu_says_so_and_runs_nothing(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main()
    assert capsys.readouterr().out == "there is no CUDA GPU here: nothing was run\n"
