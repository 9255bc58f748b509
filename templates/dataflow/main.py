"""What the Flex Template's launcher runs: it plans, submits the job and returns."""

import importlib
import logging
import os
import sys

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    pipeline = os.environ.get("BEAM_QUAD_PIPELINE", "quad")
    sys.exit(importlib.import_module(f"pipelines.{pipeline}").main())
