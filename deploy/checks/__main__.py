"""Check everything under deploy/: `make check-deploy`."""

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import yaml

from deploy.checks import compose, consistency, images, mutations, schemas
from deploy.checks.manifests import Object, builds
from deploy.checks.tools import ROOT, ProblemError, ToolError, checkov, installed, prometheus_tool, run
from deploy.observability import check as observability
from deploy.observability import models

DEPLOY = ROOT / "deploy"
YAML_PATHS = ("deploy", ".github", ".pre-commit-config.yaml", ".yamllint.yaml")


def main() -> None:
    """Run all checks, print their problems, and exit with 1 if there are any."""
    try:
        count = sum(_report(name, find) for name, find in _checks(builds()).items())
    except (ToolError, ProblemError) as error:
        sys.exit(str(error))
    if count:
        sys.exit(f"{count} problems")


def _checks(built: dict[str, list[Object]]) -> dict[str, Callable[[], Iterable[str]]]:
    dockerfiles = sorted(DEPLOY.glob("docker/*.Dockerfile"))
    rules = sorted(DEPLOY.glob("observability/rules/*.yml"))
    rule_tests = sorted(DEPLOY.glob("observability/tests/*.yml"))
    releases = ", ".join(schemas.VERSIONS)
    return {
        f"hadolint: {len(dockerfiles)} Dockerfiles": lambda: _errors(installed("hadolint"), *dockerfiles),
        "Dockerfiles set variables that their programs read": images.problems,
        "yamllint": lambda: _errors(installed("yamllint"), "--strict", *YAML_PATHS),
        f"kustomize: {len(built)} builds, {sum(map(len, built.values()))} objects": list,
        f"schemas of Kubernetes {releases}, strict": lambda: _in_each(built, schemas.problems),
        "objects fit each other and the settings of the services": lambda: _in_each(built, consistency.problems),
        f"checks notice {len(mutations.MUTATIONS)} faults in manifests": lambda: mutations.unnoticed(built),
        "checkov: builds and Dockerfiles": lambda: _checkov(built),
        "compose.yaml": compose.problems,
        "promtool: rules": lambda: _errors(prometheus_tool("promtool"), "check", "rules", *rules),
        f"promtool: {len(rule_tests)} files of rule tests": lambda: _errors(
            prometheus_tool("promtool"), "test", "rules", *rule_tests
        ),
        f"promtool: rule tests with {', '.join(models.LOADS)}, three replicas; fleets": models.problems,
        f"rule tests notice {len(models.FAULTS)} faults of rules with several models": models.unnoticed,
        "rules, runbook, metrics page and dashboard": observability.problems,
    }


def _report(name: str, find: Callable[[], Iterable[str]]) -> int:
    found = list(find())
    print(f"{'wrong' if found else 'ok':5}  {name}", flush=True)
    for problem in found:
        print(f"       {problem}")
    return len(found)


def _in_each(built: dict[str, list[Object]], find: Callable[[list[Object]], Iterator[str]]) -> Iterator[str]:
    for name, objects in built.items():
        yield from (f"{name}: {problem}" for problem in find(objects))


def _errors(program: Path, *arguments: str | Path) -> Iterator[str]:
    try:
        run(program, *arguments)
    except ProblemError as error:
        yield str(error)


def _checkov(built: dict[str, list[Object]]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        for name, objects in built.items():
            (Path(folder) / f"{name.replace('/', '-')}.yaml").write_text(yaml.safe_dump_all(objects))
        for path in (Path(folder), DEPLOY / "docker"):
            yield from _errors(checkov(), "--config-file", DEPLOY / "checks" / "checkov.yaml", "--directory", path)


if __name__ == "__main__":
    main()
