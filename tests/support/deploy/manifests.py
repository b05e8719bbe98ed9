"""Objects of deploy/kubernetes, as `kubectl kustomize` renders them, and the schemas that they are checked with.

kubectl and the schemas of Kubernetes come from PyPI, the types of custom resources from npm. Each has an environment of
its own under build/.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.peers.environments import python_of
from support.deploy.prometheus import DEPLOY
from support.tools import require_program

__all__ = ["KUBERNETES", "Object", "Pod", "custom_resource_faults", "pods_of", "render", "render_text", "schema_faults"]

Object = dict[str, Any]

KUBERNETES = DEPLOY / "kubernetes"
_MODELS = DEPLOY.parent / "build/kubernetes-models"
# TypeScript finds misspelt keys, the packages' own check finds wrong values.
_NPM_PACKAGES = (
    "@kubernetes-models/gateway-api@2.0.0",
    "@kubernetes-models/keda@2.0.0",
    "@kubernetes-models/prometheus-operator@6.0.0",
    "typescript@5.9.3",
)
_MODULES = {
    "gateway.networking.k8s.io": "@kubernetes-models/gateway-api/gateway.networking.k8s.io",
    "keda.sh": "@kubernetes-models/keda/keda.sh",
    "monitoring.coreos.com": "@kubernetes-models/prometheus-operator/monitoring.coreos.com",
}
_TIMEOUT_S = 300


@dataclass(frozen=True)
class Pod:
    """The pods of one workload.

    Attributes:
        labels: Of each pod.
        spec: The pod's specification, with `containers`.
        update: Type and parameters of an update.
    """

    labels: Mapping[str, str]
    spec: Object
    update: Object

    @property
    def container(self) -> Object:
        """Its one container."""
        (container,) = self.spec["containers"]
        return dict(container)


def render(overlay: str, folder: Path, *, components: Sequence[str] = ()) -> list[Object]:
    """Returns the objects of a folder below overlays/.

    Args:
        overlay: Its name, such as "cpu".
        folder: Empty folder for a kustomization.
        components: Folders below deploy/kubernetes that are applied on top, as the comments of the overlays name them.

    Raises:
        AssertionError: kubectl refuses them; the message is its own.
    """
    above = Path(os.path.relpath(KUBERNETES, folder))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(above / "overlays" / overlay)],
        "components": [str(above / component) for component in components],
    }
    return render_text(yaml.safe_dump(kustomization), folder)


def render_text(kustomization: str, folder: Path) -> list[Object]:
    """Returns the objects of a kustomization, which is written into `folder`; see `render`."""
    (folder / "kustomization.yaml").write_text(kustomization)
    ran = _run([_program("kubectl"), "kustomize", str(folder)])
    assert ran.returncode == 0, ran.stderr
    return list(yaml.safe_load_all(ran.stdout))


def schema_faults(objects: Sequence[Object], folder: Path) -> list[str]:
    """Returns what Kubernetes' own schemas forbid; a key that they do not have is a fault."""
    path = folder / "objects.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    ran = _run([_program("kubernetes-validate"), "--strict", str(path)])
    lines = (ran.stdout + ran.stderr).splitlines()
    faults = [line for line in lines if " passed for resource " not in line]
    assert len(faults) + len(objects) >= len(lines) >= len(objects), lines
    assert bool(faults) == bool(ran.returncode), lines
    return faults


def custom_resource_faults(objects: Sequence[Object]) -> list[str]:
    """Returns what the types and schemas of custom resources forbid; a key that they do not have is a fault."""
    _install_models()
    lines = []
    for number, made in enumerate(objects):
        group, _, version = made["apiVersion"].partition("/")
        body = {key: value for key, value in made.items() if key not in ("apiVersion", "kind")}
        lines += [
            f'import {{ {made["kind"]} as Kind{number} }} from "{_MODULES[group]}/{version}";',
            f"const made{number} = new Kind{number}({json.dumps(body)});",
            f"try {{ made{number}.validate(); }} catch (error) {{ console.log(String(error)); }}",
        ]
    (_MODELS / "check.ts").write_text("declare const console: { log(text: string): void };\n" + "\n".join(lines))
    flags = ["--target", "es2022", "--module", "nodenext", "--strict", "--skipLibCheck"]
    compiled = _run([str(_MODELS / "node_modules/.bin/tsc"), *flags, "check.ts"], folder=_MODELS)
    assert (_MODELS / "check.js").exists(), compiled.stdout
    ran = _run([require_program("node"), "check.js"], folder=_MODELS)
    assert ran.returncode == 0, ran.stderr
    wrong_types = [line for line in compiled.stdout.splitlines() if re.search(r"\): error TS\d+", line)]
    assert bool(wrong_types) == bool(compiled.returncode), compiled.stdout
    return wrong_types + ran.stdout.splitlines()


def pods_of(objects: Sequence[Object]) -> list[Pod]:
    """Returns the pods of each Deployment, and those that KServe makes of an InferenceService with its runtime."""
    pods = [
        Pod(one["spec"]["template"]["metadata"]["labels"], one["spec"]["template"]["spec"], one["spec"]["strategy"])
        for one in objects
        if one["kind"] == "Deployment"
    ]
    runtimes = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "ServingRuntime"}
    for one in objects:
        if one["kind"] == "InferenceService":
            predictor = one["spec"]["predictor"]
            spec = {**runtimes[predictor["model"]["runtime"]], **predictor}
            # KServe sets this label itself.
            labels = {"serving.kserve.io/inferenceservice": one["metadata"]["name"]}
            pods.append(Pod(labels, spec, predictor["deploymentStrategy"]))
    return pods


def _program(name: str) -> str:
    return str(Path(python_of("kubernetes")).with_name(name))


def _install_models() -> None:
    stamp = _MODELS / "installed"
    if stamp.exists() and stamp.read_text() == " ".join(_NPM_PACKAGES):
        return
    _MODELS.mkdir(parents=True, exist_ok=True)
    (_MODELS / "package.json").write_text('{"type": "module"}')
    flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    ran = _run([require_program("npm"), "install", *flags, *_NPM_PACKAGES], folder=_MODELS)
    assert ran.returncode == 0, ran.stderr
    stamp.write_text(" ".join(_NPM_PACKAGES))


def _run(command: list[str], *, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
