"""Findings as SARIF 2.1.0, which code hosts show beside a change.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html. An ONNX file has no lines: a node
is a logical location within the file.
"""

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from edgekit.quantize.rules import RULES, Rule

if TYPE_CHECKING:
    from edgekit.pipeline.lint import LintReport, Located

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif_from_report(report: "LintReport") -> dict[str, Any]:
    """One run, with every rule of the linter and a result for each finding that stands."""
    fixed = report.fix
    file = report.model if fixed is None else fixed.out
    standing = report.findings if fixed is None else fixed.left
    index = {name: place for place, name in enumerate(RULES)}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "edgekit",
                        "version": report.edgekit,
                        "rules": [_rule(rule) for rule in RULES.values()],
                    }
                },
                "artifacts": [{"location": {"uri": _uri(file)}}],
                "results": [_result(each, file, index[each.rule]) for each in standing],
                "properties": {
                    "target": report.target,
                    "dialect": report.dialect,
                    "unverified": report.unverified,
                },
            }
        ],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.name,
        "shortDescription": {"text": rule.why},
        "help": {"text": rule.mend},
        "defaultConfiguration": {"level": rule.severity},
        "properties": {"fix": list(rule.kinds)},
    }


def _result(each: "Located", file: str, index: int) -> dict[str, Any]:
    logical = {"name": each.node, "kind": "member"}
    if each.layer:
        logical["fullyQualifiedName"] = f"{each.layer}/{each.node}"
    return {
        "ruleId": each.rule,
        "ruleIndex": index,
        "level": each.severity,
        "message": {"text": f"{each.message} {each.mend}"},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": _uri(file), "index": 0}},
                "logicalLocations": [logical],
            }
        ],
    }


def _uri(file: str) -> str:
    path = PurePath(file)
    return path.as_uri() if path.is_absolute() else path.as_posix().replace(" ", "%20")
