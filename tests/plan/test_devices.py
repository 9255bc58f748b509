import pytest

from beam_quad.plan.devices import Device, chip_named


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756.5), ("NVIDIA H200", 989), ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA L4", 121), ("NVIDIA L40S", 362), ("NVIDIA A100-SXM4-40GB", 312), ("type:nvidia-l4;count:1", 121),
    ],
)  # fmt: skip
def test_a_chip_is_known_by_the_names_that_torch_and_dataflow_have_for_it(name, tflops):
    assert chip_named(name).bfloat16_flops_per_s == tflops * 1e12


def test_a_chip_that_is_not_in_the_table_is_not_taken_for_another():
    assert chip_named("NVIDIA L400") is None
    assert chip_named("Tesla T4") is None


def test_a_device_without_tensor_cores_in_its_dtype_is_slower():
    chip = chip_named("nvidia-l4")
    rates = [Device.gpu(chip, dtype, 4).flops_per_s for dtype in ("bfloat16", "float32")]
    assert rates == pytest.approx([4 * 0.4 * 121e12, 4 * 0.4 * 30.3e12])
