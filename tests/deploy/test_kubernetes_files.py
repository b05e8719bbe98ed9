"""The files of deploy/kubernetes, without any tool of Kubernetes; tests/deploy/test_kubernetes.py renders them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from support.deploy.manifests import KUBERNETES
from tools.kubernetes_rules import OBJECT, as_object

SERVER = KUBERNETES / "base/server/deployment.yaml"
RUNTIME = KUBERNETES / "overlays/kserve/serving-runtime.yaml"


def container_of(path: Path, *where: str) -> dict[str, Any]:
    """Returns the container in an object, without its name and image."""
    found = yaml.safe_load(path.read_text())
    for key in where:
        found = found[key]
    (container,) = found["containers"]
    return {key: value for key, value in container.items() if key not in ("name", "image")}


def test_the_rules_are_those_of_prometheus() -> None:
    assert OBJECT.read_text() == as_object(), "run: PYTHONPATH=tests .venv/bin/python -m tools.kubernetes_rules"


def test_kserve_runs_the_container_of_the_deployment() -> None:
    deployed = container_of(SERVER, "spec", "template", "spec")
    assert container_of(RUNTIME, "spec") == deployed
    assert deployed["ports"][0]["name"] == "grpc"  # KServe's Service leads to the first port


def test_every_file_belongs_to_a_kustomization_and_every_named_file_exists() -> None:
    named = set()
    for path in KUBERNETES.rglob("kustomization.yaml"):
        listed = yaml.safe_load(path.read_text())
        used = [*listed.get("resources", ()), *listed.get("components", ())]
        used += [patch["path"] for patch in listed.get("patches", ()) if "path" in patch]
        # Components that an overlay offers in a comment.
        used += [line.split()[2] for line in path.read_text().splitlines() if line.startswith("#   - ")]
        named |= {(path.parent / name).resolve() for name in used}
    assert [str(path) for path in sorted(named) if not path.exists()] == []
    overlays = {path.parent for path in KUBERNETES.glob("overlays/**/kustomization.yaml")}
    files = {path if path.name != "kustomization.yaml" else path.parent for path in KUBERNETES.rglob("*.yaml")}
    assert files - named - overlays == set()
