"""What a proof takes: trainings, and measuring models on held-out texts; see `cost`."""

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
    """Estimates a proof. Forward and backward are 6 operations a parameter and token, a forward alone 2.

    Args:
      parameters: Of the model that is trained, which are float32 meanwhile.
      trainings: Trainings.
      trained_tokens: Tokens of all of them.
      measurements: How many times a model is measured.
      measured_tokens: Tokens of all of these.
      documents: Examples of the corpus that the texts of the trainings are drawn from.
      machines: What does the work.
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
