"""Generate the PrometheusRule and the Grafana dashboard of the Kubernetes component `monitoring`.

Run `python -m deploy.observability.generate`. `make check-deploy` reports outdated files.
"""

import json
from pathlib import Path

import yaml

from deploy.observability.dashboard import dashboard

RULES = Path(__file__).parent / "rules"
COMPONENT = Path(__file__).parents[1] / "k8s" / "components" / "monitoring"
HEAD = """\
# yamllint disable rule:line-length
# Written by `python -m deploy.observability.generate` from deploy/observability/rules/*.yml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: imagesearch
spec:
  groups:
"""


def files() -> dict[Path, str]:
    """Return the text of each generated file, by path."""
    return {
        COMPONENT / "prometheus-rule.yaml": prometheus_rule(),
        COMPONENT / "dashboard.json": json.dumps(dashboard(), indent=2) + "\n",
    }


def prometheus_rule() -> str:
    """Return the custom resource of the Prometheus operator: the groups of all rule files, with their comments."""
    bodies = [path.read_text().partition("\ngroups:\n")[2] for path in sorted(RULES.glob("*.yml"))]
    text = HEAD + "\n".join(
        "".join(f"  {line}" if line.strip() else line for line in body.splitlines(keepends=True)) for body in bodies
    )
    expected = [group for path in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
    if yaml.safe_load(text)["spec"]["groups"] != expected:
        raise ValueError("the groups changed when the files were joined; rule files may have nothing after `groups:`")
    return text


def outdated() -> list[Path]:
    """Return the generated files that differ from what this command would write."""
    return [path for path, text in files().items() if not path.exists() or path.read_text() != text]


def main() -> None:
    """Write the files."""
    for path, text in files().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
