"""Cost of a proof: the trainings, and the measurements of models on held-out texts; see `cost`."""

from beam_quad.plan.cost import CostPlan, Machines, StageWork


def plan_cost(
    parameters: int,
    trainings: int,
    trained_tokens: int,
    measurements: int,
    measured_tokens: int,
    documents: int,
    machines: Machines,
) -> CostPlan:
    """Estimates a proof, at 6 operations per parameter and token for training, and 2 for a forward pass.

    Args:
      parameters: Parameters of the trained model, which are float32 during training.
      trainings: Number of trainings.
      trained_tokens: Tokens of all trainings.
      measurements: Number of times that a model is measured.
      measured_tokens: Tokens of all measurements.
      documents: Examples of the corpus from which the training texts are drawn.
      machines: The machines of the run.
    """
    train = StageWork(
        "train",
        ("TrainOn",),
        trainings,
        is_model=True,
        float32_flops=6.0 * parameters * trained_tokens,
        # Parameters, gradients and the two moments of AdamW.
        memory_bytes=4 * 4.0 * parameters,
    )
    flops = 2.0 * parameters * measured_tokens
    measure = StageWork("measure", (), measurements, num_stages=0, is_model=True, flops=flops)
    return CostPlan.of((train, measure), documents, 0, machines, ("trainings",), ())
