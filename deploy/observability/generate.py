"""Writes the files that other programs read: the PrometheusRule of Kubernetes, and the dashboard.

`python -m deploy.observability.generate`; with --check it only says whether they are up to date.
"""

import json
import sys
from pathlib import Path

import yaml

from deploy.observability.dashboard import dashboard

HERE = Path(__file__).parent
RULES = HERE / "rules"
HEAD = """\
# yamllint disable rule:line-length
# Written by `python -m deploy.observability.generate` from rules/*.yml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: imagesearch
spec:
  groups:
"""


def files() -> dict[Path, str]:
    """What is written, by its path."""
    return {
        HERE / "prometheus-rule.yaml": prometheus_rule(),
        HERE / "dashboards" / "imagesearch.json": json.dumps(dashboard(), indent=2) + "\n",
    }


def prometheus_rule() -> str:
    """The custom resource of the Prometheus operator: the groups of all files as they stand, comments too."""
    bodies = [path.read_text().partition("\ngroups:\n")[2] for path in sorted(RULES.glob("*.yml"))]
    text = HEAD + "\n".join(
        "".join(f"  {line}" if line.strip() else line for line in body.splitlines(keepends=True)) for body in bodies
    )
    expected = [group for path in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
    if yaml.safe_load(text)["spec"]["groups"] != expected:
        raise ValueError("the groups do not come out as they are: is there anything below `groups:` that is none?")
    return text


def outdated() -> list[Path]:
    """The files that are not what they would be written as."""
    return [path for path, text in files().items() if not path.exists() or path.read_text() != text]


def main() -> None:
    """Writes the files."""
    if "--check" in sys.argv[1:]:
        if old := outdated():
            sys.exit(f"run python -m deploy.observability.generate: out of date: {', '.join(map(str, old))}")
        return
    for path, text in files().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
