"""Writes the parameters of a Flex Template from the flags of its pipeline: what the console shows and Dataflow checks.

    python -m templates.dataflow.metadata quad > templates/dataflow/quad.json
    python -m templates.dataflow.metadata influence_distillation > templates/dataflow/influence_distillation.json
    python -m templates.dataflow.metadata prove > templates/dataflow/prove.json

References:
  https://cloud.google.com/dataflow/docs/guides/templates/configuring-flex-templates
"""

import argparse
import json
import sys
from typing import Any

from pipelines import distillation_options, options, parsing, prove_options

_URL = r"[a-z][a-z0-9]*://[^,\r\n]+"
# Between braces, one pair in another at most, and between brackets a comma separates no patterns.
_BRACES = r"\{([^{}\r\n]|\{[^{}\r\n]*\})*\}"
_GLOB = rf"[a-z][a-z0-9]*://([^,{{\[\r\n]|{_BRACES}|\[[^\]\r\n]+\])+"
_URLS = rf"{_GLOB}(,{_GLOB})*"
_NAMED_URLS = rf"[A-Za-z0-9_.-]+={_URLS}"
_NUMBER = r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?"

# What a flag takes where its type does not say it. On Dataflow all data lie in object storage.
_PATTERNS = {
    "accelerator": r"type:[a-z0-9-]+;count:[0-9]+(;[a-z0-9:_-]+)*",
    "against": _URLS,
    "artifacts": _URL,
    "base": _URL,
    "decontaminate": _URLS,
    "exclude": _URLS,
    "device": r"cpu|cuda(:[0-9]+)?",
    "heldout": _URLS,
    "heldout_group": rf"{_NAMED_URLS}(,{_NAMED_URLS})*",
    "input": _URLS,
    "input_root": _URL,
    "optimizer_state": _URL,
    "layers": r"(attention|mlp|all|last:[0-9]+)(\+head)?|head|regex:.+",
    "output": _URL,
    "policies": r"[a-z_]+(,[a-z_]+)*",
    "prices": _URL,
    "query": _URLS,
    "query_group": rf"{_NAMED_URLS}(,{_NAMED_URLS})*",
    "query_weight": rf"[A-Za-z0-9_.-]+={_NUMBER}(,[A-Za-z0-9_.-]+={_NUMBER})*",
    "seed": r"-?[0-9]+",
    "share": r"[^\r\n]+",
    "share_by": rf"[A-Za-z0-9_.-]+={_URL}(,[A-Za-z0-9_.-]+={_URL})*",
    "tau": rf"-?{_NUMBER}",
}
# By `parsing.count`.
_COUNT = r"[0-9]+(_[0-9]+)*(\.[0-9]+)?([eE]\+?[0-9]{1,3})?[kKmMbBtT]?"
_PATTERNS_BY_TYPE = {
    int: r"[0-9]+",
    parsing.count: _COUNT,
    parsing.total: rf"\+?{_COUNT}",
    float: _NUMBER,
}


_PIPELINES = {
    "quad": ("Quad", options.parser),
    "influence_distillation": ("Influence Distillation", distillation_options.parser),
    "prove": ("Proof of a selection", prove_options.parser),
}


def template_metadata(pipeline: str) -> dict[str, Any]:
    """Describes a pipeline's template as `google.dataflow.v1beta3.TemplateMetadata`, in JSON's names."""
    name, make_parser = _PIPELINES[pipeline]
    parser = make_parser()
    return {
        "name": name,
        "description": parser.description,
        "streaming": False,
        "parameters": [
            _parameter(action, str(group.title))
            for group in parser._action_groups
            for action in group._group_actions
            if action.dest != "help"
        ],
    }


def _parameter(action: argparse.Action, group: str) -> dict[str, Any]:
    pattern = _pattern(action)
    parameter = {
        "name": action.dest,
        "label": action.dest.replace("_", " ").capitalize(),
        "helpText": action.help,
        "isOptional": not action.required,
        "groupName": group.capitalize(),
        "paramType": _param_type(action),
        "regexes": [f"^({pattern})$"] if pattern else [],
    }
    if action.choices:
        parameter["enumOptions"] = [{"value": str(choice)} for choice in action.choices]
    if action.default not in (None, []):
        parameter["defaultValue"] = _text(action.default)
    return parameter


def _is_switch(action: argparse.Action) -> bool:
    return action.const is True


def _param_type(action: argparse.Action) -> str:
    if action.choices:
        return "ENUM"
    if _is_switch(action):
        return "BOOLEAN"
    return "NUMBER" if action.type in (int, float) else "TEXT"


def _pattern(action: argparse.Action) -> str | None:
    if action.choices:
        return "|".join(map(str, action.choices))
    if _is_switch(action):
        return "[Tt]rue|[Ff]alse"
    return _PATTERNS.get(action.dest) or _PATTERNS_BY_TYPE.get(action.type)  # type: ignore[call-overload]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(template_metadata(sys.argv[1]), indent=2) + "\n")
