import os
from collections.abc import Sequence

from pipelines import command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo from a command line; see `demo.command.main`."""
    # Set before the libraries are imported, which read it only then. The demo needs nothing from a hub, and should fail
    # rather than ask one.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # If threads spin while they wait, a machine with any other work runs at half its speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pipelines.demo import command as demo

    return demo.main(argv)


if __name__ == "__main__":
    command.run_as_program(main)
