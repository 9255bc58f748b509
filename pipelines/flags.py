"""Flags, each declared once as a field of an options class; parser, checks, template and reference follow from it."""

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from beam_quad.errors import UsageError
from pipelines import parsing

# Pattern of paths in a Flex Template, because on Dataflow all data is in object storage.
_GLOB_BRACES = r"\{([^{}\r\n]|\{[^{}\r\n]*\})*\}"
# A comma inside braces (nested at most once) or brackets does not separate patterns.
_GLOB = rf"[a-z][a-z0-9]*://([^,{{\[\r\n]|{_GLOB_BRACES}|\[[^\]\r\n]+\])+"
_NAME = r"[A-Za-z0-9_.-]+"
URL = r"[a-z][a-z0-9]*://[^,\r\n]+"
URLS = rf"{_GLOB}(,{_GLOB})*"
NAMED_URLS = rf"{_NAME}={URLS}(,{_NAME}={URLS})*"
NUMBER = r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?"
NAMED_NUMBERS = rf"{_NAME}={NUMBER}(,{_NAME}={NUMBER})*"


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a command line.

    Attributes:
      help: One line of help, or a function returning it.
      default: Default value.
      group: Group in `--help all`.
      name: Name of the flag; empty for the name of its field.
      field: Name of the field.
      is_required: Whether the flag is required.
      is_repeated: Whether the flag may be repeated.
      is_common: Whether most runs need the flag, so that `--help` shows it.
      choices: All allowed values, or a function returning them; None for those of the field's `Literal`.
      reads: Parses the value; None for the field's type.
      at_least: Minimum value, if any.
      is_positive: Whether the value must be above 0 and finite.
      is_share: Whether the value must be in (0, 1].
      why: End of the error message if a value is too small.
      pattern: Regular expression for a Flex Template; None for the pattern of the type.
      more: Further text for the reference.
    """

    help: str | Callable[[], str]
    default: Any = None
    group: str = ""
    name: str = ""
    field: str = ""
    is_required: bool = False
    is_repeated: bool = False
    is_common: bool = False
    choices: Any = None
    reads: Callable[[str], Any] | None = None
    at_least: float | None = None
    is_positive: bool = False
    is_share: bool = False
    why: str = ""
    pattern: str | None = None
    more: str = ""

    @property
    def is_switch(self) -> bool:
        """Whether it needs no value."""
        return self.reads is parsing.switch

    @property
    def is_named(self) -> bool:
        """Whether its values are NAME=VALUE."""
        return self.pattern in (NAMED_URLS, NAMED_NUMBERS)

    def add_to(self, group: Any) -> None:
        """Adds it to a parser, or to a group of one."""
        help = str(self.help)
        if self.default not in (None, [], False):
            help += f" (default: {self.default})"
        # argparse formats help.
        settings: dict[str, Any] = {"help": help.replace("%", "%%"), "default": self.default}
        if self.is_required:
            settings["required"] = True
        if self.is_repeated:
            settings["action"] = "append"
        if self.is_switch:
            settings |= {"nargs": "?", "const": True}
        if self.reads is not None:
            settings["type"] = self.reads
        if self.choices is not None:
            settings["choices"] = self.choices
        group.add_argument(f"--{self.name}", **settings)

    def check(self, value: Any) -> None:
        """Refuses a value out of bounds; None is allowed, for defaults that depend on the corpus.

        Raises:
          UsageError: Naming the flag.
        """
        words = None
        if value is None:
            return
        if self.at_least is not None and not self.at_least <= value < math.inf:
            words = f"be at least {self.at_least}"
        elif self.is_positive and not 0 < value < math.inf:
            words = "be positive"
        elif self.is_share and not 0 < value <= 1:
            words = "lie in (0, 1]"
        if words is not None:
            raise UsageError(f"--{self.name} must {words}, got {value}{self.why}")


@dataclasses.dataclass(frozen=True)
class Options:
    """A class whose fields are flags, or are made of them.

    Attributes:
      COMMAND: The subcommand.
      SUMMARY: One sentence about the command.
      GROUPS: The groups of its flags, in order; flags of other groups are not accepted.
    """

    COMMAND: ClassVar[str]
    SUMMARY: ClassVar[str]
    GROUPS: ClassVar[tuple[str, ...]]

    def check(self) -> None:
        """Refuses values out of their flags' bounds.

        Raises:
          UsageError: With the first such flag and a remedy.
        """
        for each in declared(type(self)):
            each.check(getattr(self, each.field))


def flag(
    help: str | Callable[[], str],
    default: Any = None,
    others: tuple[Flag, ...] = (),
    **settings: Any,
) -> Any:
    """Declares the flag of a field.

    Args:
      help: What it does, in a line, or a function returning it.
      default: Its value if it is not given.
      others: Further flags behind the field.
      **settings: Other attributes of `Flag`.
    """
    return dataclasses.field(metadata={"flags": (Flag(help, default, **settings), *others)})


def changed(options: type[Options], name: str, **settings: Any) -> Any:
    """Declares a field's flag as a base class does, with some settings changed."""
    (field,) = (field for field in dataclasses.fields(options) if field.name == name)
    own, *others = field.metadata["flags"]
    return dataclasses.field(metadata={"flags": (dataclasses.replace(own, **settings), *others)})


def declared(options: type[Options]) -> Iterator[Flag]:
    """Lists the flags of a class in order of declaration."""
    annotations = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        for each in field.metadata.get("flags", ()):
            yield _completed(each, field.name, annotations[field.name])


def by_group(options: type[Options]) -> dict[str, list[Flag]]:
    """Lists the accepted flags by group, common ones first."""
    groups: dict[str, list[Flag]] = {group: [] for group in options.GROUPS}
    for each in declared(options):
        if each.group in groups:
            groups[each.group].append(each)
    return {
        group: sorted(own, key=lambda each: not each.is_common) for group, own in groups.items()
    }


def parser(options: type[Options], only_common: bool = False) -> parsing.Parser:
    """Makes the parser of a command.

    Args:
      options: The class of its options.
      only_common: Whether it has only the flags most runs need.
    """
    groups = by_group(options)
    number = sum(map(len, groups.values()))
    result = parsing.Parser(
        prog=f"beam-quad {options.COMMAND}",
        description=options.SUMMARY,
        epilog=f"--help all shows all {number} flags, by group. Any other option goes to Beam, such as --runner.",
        add_help=False,
        allow_abbrev=False,
    )
    result.add_argument(
        "-h",
        "--help",
        nargs="?",
        choices=["all"],
        const=options,
        action=_Help,
        default=argparse.SUPPRESS,
        help="show the flags that most runs need, or all of them",
    )
    for title, own in groups.items():
        shown = [each for each in own if each.is_common or not only_common]
        group = result.add_argument_group(title) if shown else None
        for each in shown:
            each.add_to(group)
    return result


class _Help(argparse.Action):
    """Shows the flags of its constant, a class of options: the common ones, or all."""

    def __call__(self, ours: argparse.ArgumentParser, _: Any, values: Any, __: Any = None) -> None:
        parser(self.const, only_common=values != "all").print_help()
        ours.exit()


def _completed(declared: Flag, field: str, annotation: Any) -> Flag:
    """Completes a flag from its field's name and type."""
    choices = declared.choices() if callable(declared.choices) else declared.choices
    reads = declared.reads
    # Repeated flags stay lists of texts, which each command's `parse` splits and converts.
    if not declared.is_repeated:
        of = _without_none(annotation)
        if typing.get_origin(of) is typing.Literal:
            choices = choices or typing.get_args(of)
            of = type(choices[0])
        if of is bool:
            reads = reads or parsing.switch
        elif of in (int, float):
            reads = reads or of
    return dataclasses.replace(
        declared,
        help=declared.help() if callable(declared.help) else declared.help,
        default=[] if declared.is_repeated else declared.default,
        name=declared.name or field,
        field=field,
        choices=choices,
        reads=reads,
    )


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        (annotation,) = (a for a in typing.get_args(annotation) if a is not types.NoneType)
    return annotation
