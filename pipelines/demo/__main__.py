import os
import sys

# Read when the libraries are imported: nothing of the demo comes from a hub, and they shall fail rather than ask.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that spin while they wait halve the speed of a machine that does anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if __name__ == "__main__":
    from pipelines.demo.command import main

    sys.exit(main())
