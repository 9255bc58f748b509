"""Writes the parameters of a Flex Template from the flags of its pipeline: what the console shows and Dataflow checks.

    python -m templates.dataflow.metadata quad > templates/dataflow/quad.json
    python -m templates.dataflow.metadata influence_distillation > templates/dataflow/influence_distillation.json
    python -m templates.dataflow.metadata prove > templates/dataflow/prove.json

References:
  https://cloud.google.com/dataflow/docs/guides/templates/configuring-flex-templates
"""

import json
import sys
from typing import Any

from pipelines import flags, parsing
from pipelines.distillation_options import DistillationOptions
from pipelines.flags import Flag
from pipelines.options import QuadOptions
from pipelines.prove_options import ProveOptions

# By `parsing.count`.
_COUNT = r"[0-9]+(_[0-9]+)*(\.[0-9]+)?([eE]\+?[0-9]{1,3})?[kKmMbBtT]?"
_PATTERNS = {
    int: r"[0-9]+",
    parsing.count: _COUNT,
    parsing.total: rf"\+?{_COUNT}",
    float: flags.NUMBER,
    parsing.switch: "[Tt]rue|[Ff]alse",
}


_PIPELINES: dict[str, tuple[str, type[flags.Options]]] = {
    "quad": ("Quad", QuadOptions),
    "influence_distillation": ("Influence Distillation", DistillationOptions),
    "prove": ("Proof of a selection", ProveOptions),
}


def template_metadata(pipeline: str) -> dict[str, Any]:
    """Describes a pipeline's template as `google.dataflow.v1beta3.TemplateMetadata`, in JSON's names."""
    name, options = _PIPELINES[pipeline]
    return {
        "name": name,
        "description": options.SUMMARY,
        "streaming": False,
        "parameters": [
            _parameter(flag) for group in flags.by_group(options).values() for flag in group
        ],
    }


def _parameter(flag: Flag) -> dict[str, Any]:
    pattern = _pattern(flag)
    parameter = {
        "name": flag.name,
        "label": flag.name.replace("_", " ").capitalize(),
        "helpText": flag.help,
        "isOptional": not flag.is_required,
        "groupName": flag.group.capitalize(),
        "paramType": _param_type(flag),
        "regexes": [f"^({pattern})$"] if pattern else [],
    }
    if flag.choices:
        parameter["enumOptions"] = [{"value": str(choice)} for choice in flag.choices]
    if flag.default not in (None, []):
        parameter["defaultValue"] = _text(flag.default)
    return parameter


def _param_type(flag: Flag) -> str:
    if flag.choices:
        return "ENUM"
    if flag.is_switch:
        return "BOOLEAN"
    return "NUMBER" if flag.reads in (int, float) else "TEXT"


def _pattern(flag: Flag) -> str | None:
    if flag.choices:
        return "|".join(map(str, flag.choices))
    return flag.pattern or _PATTERNS.get(flag.reads)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(template_metadata(sys.argv[1]), indent=2) + "\n")
