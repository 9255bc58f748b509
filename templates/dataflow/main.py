"""What the Flex Template's launcher runs: it plans, submits the job and returns."""

import importlib
import logging
import os
import sys

PIPELINES = ("quad", "influence_distillation", "prove")

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    pipeline = os.environ.get("BEAM_QUAD_PIPELINE", "quad")
    if pipeline not in PIPELINES:
        sys.exit(
            f"BEAM_QUAD_PIPELINE={pipeline} must be one of {', '.join(PIPELINES)}; build the image anew"
        )
    sys.exit(importlib.import_module(f"pipelines.{pipeline}").main())
