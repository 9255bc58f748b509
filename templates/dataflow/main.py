"""What the Flex Template's launcher runs: it plans, submits the job and returns."""

import logging
import sys

from pipelines.quad import main

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sys.exit(main())
