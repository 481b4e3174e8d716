"""The gates as JUnit XML: one test case for each gate, so that a CI server shows them as tests."""

from xml.etree import ElementTree as ET

from edgekit.report import view
from edgekit.report.schema import BranchReport, GateReport, RunReport, StepReport
from edgekit.report.text import printable


def junit(report: RunReport) -> str:
    """Write the gates as JUnit XML.

    A gate that is not held is a failure, whether it was measured or a step failed before it; a step
    that failed is an error; a skipped branch and its gates are skipped test cases. A suite is the
    shared chain or one branch.
    """
    root = ET.Element("testsuites", name=printable(f"edgekit {report.recipe}"))
    if report.gates or any(s.status == "failed" for s in report.shared):
        _suite(root, report, "shared", report.shared, report.gates)
    for branch in report.branches:
        skipped = branch.status == "skipped"
        suite = _suite(root, report, branch.name, branch.steps, branch.gates, skipped=skipped)
        _branch_case(suite, report, branch)
    for suite in root:
        _count(suite)
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    root.set("time", f"{report.seconds:.3f}")
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _suite(
    root: ET.Element,
    report: RunReport,
    name: str,
    steps: tuple[StepReport, ...],
    gates: tuple[GateReport, ...],
    *,
    skipped: bool = False,
) -> ET.Element:
    suite = ET.SubElement(
        root,
        "testsuite",
        name=printable(name),
        timestamp=printable(report.started_utc),
        time=f"{sum(s.seconds or 0.0 for s in steps):.3f}",
    )
    properties = ET.SubElement(suite, "properties")
    for key, value in (("edgekit", report.edgekit), ("seed", str(report.seed))):
        ET.SubElement(properties, "property", name=key, value=printable(value))
    for gate in gates:
        case = _case(suite, report, name, gate.name)
        text = _gate_text(gate)
        if gate.passed:
            ET.SubElement(case, "system-out").text = text
        elif skipped:
            ET.SubElement(case, "skipped", message=printable(gate.message))
        else:
            message = printable(gate.message) or text
            ET.SubElement(case, "failure", type="GateError", message=message).text = text
    for step in steps:
        if step.status == "failed":
            case = _case(suite, report, name, step.name)
            error = ET.SubElement(case, "error", type="PassError", message=printable(step.reason))
            if step.details:
                error.text = "\n".join(map(printable, step.details.splitlines()))
    return suite


def _branch_case(suite: ET.Element, report: RunReport, branch: BranchReport) -> None:
    """Say what no gate and no step of the branch has said."""
    if branch.status == "skipped":
        case = _case(suite, report, branch.name, "branch")
        ET.SubElement(case, "skipped", message=printable(branch.reason))
    elif branch.status == "failed" and not _has_problem(suite):
        case = _case(suite, report, branch.name, "branch")
        ET.SubElement(case, "error", type="EdgekitError", message=printable(branch.reason))


def _has_problem(suite: ET.Element) -> bool:
    return any(suite.find(f"testcase/{tag}") is not None for tag in ("failure", "error"))


def _case(suite: ET.Element, report: RunReport, place: str, name: str) -> ET.Element:
    classname = printable(f"{report.recipe}.{place}")
    return ET.SubElement(suite, "testcase", classname=classname, name=printable(name), time="0")


def _gate_text(gate: GateReport) -> str:
    seen = view.gate_observed(gate)
    parts = (seen.main, seen.sub, f"({seen.label})" if seen.label else "")
    observed = " ".join(part for part in parts if part)
    return printable(f"observed {observed}, budget {view.gate_budget(gate)}")


def _count(suite: ET.Element) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(key, str(sum(case.find(tag) is not None for case in cases)))
