"""The console command `beam-quad`, and `python -m beam_quad`: one subcommand for each pipeline."""

import importlib
import importlib.util
import pathlib
import sys

_COMMANDS = {
    "select": ("pipelines.quad", "select by influence and diversity (Quad)"),
    "distill": (
        "pipelines.influence_distillation",
        "select by influence propagated from landmarks, for one target or several",
    ),
    "prove": (
        "pipelines.prove",
        "train on a selection and on its rivals, and say what the selection is worth",
    ),
    "status": ("pipelines.status", "say how a run stands, from its output alone"),
    "demo": ("pipelines.demo.__main__", "make a small corpus and a proxy model, and select"),
}
_USAGE = f"usage: beam-quad {{{','.join(_COMMANDS)}}} [--flags]"


def main() -> None:
    """Runs a subcommand as the program of this process, and exits."""
    _load_own_pipelines()
    importlib.import_module("pipelines.command").run_as_program(lambda: _run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    if arguments[:1] in (["--help"], ["-h"]):
        print(_help())
        return 0
    if not arguments or arguments[0] not in _COMMANDS:
        what = f"no command {arguments[0]}" if arguments else "a command is missing"
        print(f"error: {what}; {_USAGE}, or see beam-quad --help", file=sys.stderr)
        return 2
    module = _COMMANDS[arguments[0]][0]
    code: int = importlib.import_module(module).main(arguments[1:])
    return code


def _help() -> str:
    lines = (f"  {name:<9}{words}" for name, (_, words) in _COMMANDS.items())
    return "\n".join(
        (_USAGE, "", *lines, "", "beam-quad COMMAND --help lists the flags of a command.")
    )


def _load_own_pipelines() -> None:
    """Loads the package `pipelines` beside this one, whichever of that name stands first on Python's path."""
    folder = pathlib.Path(__file__).resolve().parents[1] / "pipelines"
    spec = importlib.util.spec_from_file_location(
        folder.name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is no package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[folder.name] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    main()
