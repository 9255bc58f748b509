"""Writes the reference of all flags from their declarations.

python -m pipelines.reference > pipelines/FLAGS.md
"""

import sys
from collections.abc import Iterator

from pipelines.distillation_options import DistillationOptions
from pipelines.flags import Flag, Options, by_group
from pipelines.options import QuadOptions
from pipelines.prove_options import ProveOptions

_HEAD = """\
# Flags

<!-- Written by `python -m pipelines.reference > pipelines/FLAGS.md`; change the declarations, not this page. -->

A flag is written `--name=value` or `--name value`. Counts may be written `30B`, `1.5T`, `500M`, `2k`, `1e9` or `10_000`, and a switch
(default `false`) `--name` or `--name=true`. `--help` shows the flags in **bold**, which most runs need, and `--help all` all of them. Any
other flag goes to Beam, such as `--runner`; one that Beam does not know is an error."""


def page() -> str:
    """Makes the page."""
    shared = [flag for flag in _flags(QuadOptions) if flag in _flags(DistillationOptions)]
    lines = [_HEAD, *_section("`beam-quad select` and `beam-quad distill`", QuadOptions, shared)]
    for options in (QuadOptions, DistillationOptions, ProveOptions):
        own = [flag for flag in _flags(options) if flag not in shared]
        lines += _section(f"`beam-quad {options.COMMAND}`", options, own)
    return "\n".join(lines) + "\n"


def _flags(options: type[Options]) -> list[Flag]:
    return [flag for group in by_group(options).values() for flag in group]


def _section(title: str, options: type[Options], shown: list[Flag]) -> Iterator[str]:
    yield f"\n## {title}"
    for group in options.GROUPS:
        if own := [flag for flag in shown if flag.group == group]:
            yield f"\n### {group.capitalize()}\n"
            yield "| flag | default | what it does |\n|---|---|---|"
            yield from map(_row, own)


def _row(flag: Flag) -> str:
    name = f"`--{flag.name}`"
    words = [str(flag.help)]
    if flag.choices:
        words.append("One of " + ", ".join(f"`{choice}`" for choice in flag.choices))
    if flag.is_repeated and "repeated" not in words[0]:
        words.append("May be repeated")
    # Angle brackets would be a tag.
    text = ". ".join([*words, flag.more]).rstrip(". ").replace("<", "&lt;").replace("|", "\\|")
    return f"| {f'**{name}**' if flag.is_common else name} | {_default(flag)} | {text} |"


def _default(flag: Flag) -> str:
    if flag.is_required:
        return "required"
    if flag.default in (None, []):
        return ""
    value = str(flag.default).lower() if flag.is_switch else str(flag.default)
    return f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write(page())
