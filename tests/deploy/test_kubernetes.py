"""Each overlay of deploy/kubernetes as kubectl renders it: schemas, invariants, and the server with its environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from pydantic import ByteSize, TypeAdapter

from benchmarks.peers.environments import python_of
from mse_grad_server.process.exits import SettingsError
from mse_grad_server.settings.address import Address
from mse_grad_server.settings.model import Settings
from mse_grad_server.settings.sources import parse_command
from mse_grad_server.workers import managed_worker
from support.deploy.manifests import (
    KUBERNETES,
    Object,
    Pod,
    custom_resource_faults,
    pods_of,
    render,
    render_text,
    schema_faults,
)
from support.deploy.prometheus import DEPLOY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EXTRAS = ("components/tls", "components/monitoring", "components/autoscaling", "components/gateway")
NPU = ("components/resource-npu",)
# Overlay and components -> the resources that give a pod its one NPU; none on the CPU.
RENDERED: dict[str, tuple[str, tuple[str, ...], frozenset[str]]] = {
    "cpu": ("cpu", (), frozenset()),
    "cpu-extras": ("cpu", EXTRAS, frozenset()),
    "ascend": ("ascend", (), frozenset({"huawei.com/Ascend910"})),
    "ascend-extras": ("ascend", (*NPU, *EXTRAS), frozenset({"huawei.com/npu"})),
    "ascend-cce": ("ascend", ("components/resource-ascend-1980",), frozenset({"huawei.com/ascend-1980"})),
    "ascend-driver": ("ascend", ("components/driver-mounts",), frozenset({"huawei.com/Ascend910"})),
    "mindcluster": ("mindcluster", (), frozenset({"huawei.com/Ascend910"})),
    "mindcluster-green": ("mindcluster/green", (), frozenset({"huawei.com/Ascend910"})),
    "dra": ("dra", (), frozenset()),
    "hami": ("hami", (), frozenset({"huawei.com/Ascend910B3"})),
    "kserve": ("kserve", (), frozenset()),
    "kserve-ascend": (
        "kserve",
        ("overlays/kserve/ascend", "overlays/kserve/monitoring"),
        frozenset({"huawei.com/Ascend910"}),
    ),
}
ON_CPU = {"cpu", "cpu-extras", "kserve"}
NO_ACCESS = {"mindcluster-green"}  # a second Deployment behind the Service of the first
KSERVE_MODELS = Path(__file__).parents[1] / "support/deploy/kserve_models.py"
CORE_GROUPS = ("", "apps", "policy", "networking.k8s.io", "resource.k8s.io")
# Memory of an idle process, and of the runtime and its pinned blocks on an NPU.
IDLE_BYTES = {"cpu": 256 * 2**20, "ascend": 2 * 2**30}


@pytest.fixture(scope="module", params=RENDERED)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def objects(name: str, tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    overlay, components, _ = RENDERED[name]
    return render(overlay, tmp_path_factory.mktemp(name), components=components)


@pytest.fixture(scope="module")
def pod(objects: list[Object]) -> Pod:
    (pod,) = pods_of(objects)
    return pod


def group_of(made: Object) -> str:
    group, slash, _ = made["apiVersion"].rpartition("/")
    return str(group if slash else "")


def environment_of(pod: Pod) -> dict[str, str]:
    """Returns the variables that a pod sets to texts."""
    return {one["name"]: one["value"] for one in pod.container["env"] if "value" in one}


def settings_of(pod: Pod, monkeypatch: pytest.MonkeyPatch, *, also: Mapping[str, str] | None = None) -> Settings:
    """Returns the settings that the server in a pod reads; raises SettingsError as the server does."""
    for name, value in {**environment_of(pod), **(also or {})}.items():
        monkeypatch.setenv(name, value)
    assert "command" not in pod.container  # the entry point is the image's
    # As deploy/start_ascend calls the server.
    entry = ["--backend", "ascend"] if pod.container["image"].endswith(":ascend") else []
    return parse_command([*entry, *pod.container.get("args", ())]).settings


def size(text: str) -> int:
    return int(TypeAdapter(ByteSize).validate_python(text))


def selected(selector: Mapping[str, str], pod: Pod) -> bool:
    return bool(selector) and selector.items() <= pod.labels.items()


def test_the_schemas_of_kubernetes_accept_it(objects: list[Object], tmp_path: Path) -> None:
    core = [made for made in objects if group_of(made) in CORE_GROUPS]
    assert core
    assert schema_faults(core, tmp_path) == []


def test_the_schemas_of_custom_resources_accept_the_components(tmp_path: Path) -> None:
    custom = [made for made in render("cpu", tmp_path, components=EXTRAS) if group_of(made) not in CORE_GROUPS]
    custom.append(pod_monitor(tmp_path))
    kinds = {made["kind"] for made in custom}
    assert kinds == {"ServiceMonitor", "PodMonitor", "PrometheusRule", "ScaledObject", "GRPCRoute"}
    assert custom_resource_faults(custom) == []
    for made in custom:
        wrong_key, wrong_value = deepcopy(made), deepcopy(made)
        wrong_key["spec"]["misspelt"] = 1
        key = next(iter(made["spec"]))
        wrong_value["spec"][key] = 17
        assert any("misspelt" in fault for fault in custom_resource_faults([wrong_key]))
        assert any(f"data/spec/{key}" in fault for fault in custom_resource_faults([wrong_value]))


def pod_monitor(folder: Path) -> Object:
    objects = render("kserve", folder, components=("overlays/kserve/monitoring",))
    assert {"ServiceMonitor", "PrometheusRule"} & {made["kind"] for made in objects} == {"PrometheusRule"}
    (monitor,) = (made for made in objects if made["kind"] == "PodMonitor")
    return monitor


@pytest.mark.parametrize("components", [(), ("overlays/kserve/ascend",)], ids=["cpu", "ascend"])
def test_the_models_of_kserve_accept_its_objects(components: tuple[str, ...], tmp_path: Path) -> None:
    custom = [made for made in render("kserve", tmp_path, components=components) if group_of(made) not in CORE_GROUPS]
    assert sorted(made["kind"] for made in custom) == ["InferenceService", "ServingRuntime"]
    assert kserve_faults(custom, tmp_path) == []
    for made in custom:
        made["spec"]["misspelt"] = 1
    assert len(kserve_faults(custom, tmp_path)) == 2


def kserve_faults(objects: Sequence[Object], folder: Path) -> list[str]:
    (folder / "objects.json").write_text(json.dumps(objects))
    command = [python_of("kserve"), str(KSERVE_MODELS), str(folder / "objects.json")]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()


def test_a_misspelt_key_and_a_wrong_value_are_found(tmp_path: Path) -> None:
    for made in render("cpu", tmp_path):
        wrong = deepcopy(made)
        if made["kind"] == "ServiceAccount":
            wrong["automountServiceAccountTokens"] = False
        else:
            wrong["spec"] = {**made.get("spec", {}), "misspelt": True}
        assert schema_faults([wrong], tmp_path), made["kind"]


def test_the_server_accepts_its_settings_and_listens_on_the_ports_of_the_pod(
    pod: Pod, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(pod, monkeypatch)
    assert settings.backend == ("cpu" if name in ON_CPU else "ascend")
    assert not settings.is_supervised
    ports = {port["name"]: port["containerPort"] for port in pod.container["ports"]}
    listening = {
        "grpc": Address.parse(settings.listen),
        "direct": Address.parse(settings.direct_listen),
        "metrics": Address.parse(settings.metrics_listen),
    }
    assert {at: address.port for at, address in listening.items()} == ports
    assert {address.host for address in listening.values()} == {"0.0.0.0"}


def test_a_misspelt_setting_is_found(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="MSE_GRAD_MAX_STREAM "):
        settings_of(pod, monkeypatch, also={"MSE_GRAD_MAX_STREAM": "64"})


def test_callers_cannot_fill_the_memory_of_a_pod(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(pod, monkeypatch)
    assert not settings.shared_memory  # its pages would count too
    limit_bytes = size(f"{pod.container['resources']['limits']['memory']}B")
    assert limit_bytes >= settings.most_memory_bytes + IDLE_BYTES[settings.backend]


def test_a_pod_ends_by_itself_before_kubernetes_kills_it(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(pod, monkeypatch)
    sleep_s = pod.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    # A supervisor kills its worker after this.
    ends_s = settings.drain_timeout_s + managed_worker._DRAIN_MARGIN_S
    # The cluster's DNS keeps an address for 5 s, then a proxy asks again.
    (refresh_s,) = re.findall(r"dns_refresh_rate: (\d+)s", (DEPLOY / "envoy/envoy.yaml").read_text())
    (hold_s,) = re.findall(r"hold valid (\d+)s", (DEPLOY / "haproxy/haproxy.cfg").read_text())
    assert sleep_s > 5 + max(int(refresh_s), int(hold_s))
    assert pod.spec["terminationGracePeriodSeconds"] > sleep_s + ends_s


def test_probes_ask_for_readiness_and_life(pod: Pod) -> None:
    container = pod.container
    ports = {port["name"] for port in container["ports"]}
    asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: probe["path"] for kind, probe in asked.items()} == {
        "startup": "/ready",
        "readiness": "/ready",
        "liveness": "/live",
    }
    assert all(probe["port"] == "metrics" and "scheme" not in probe for probe in asked.values())
    assert "metrics" in ports


def test_a_pod_has_no_rights(pod: Pod, name: str) -> None:
    """The rules of the level `restricted` of pod security, and two of our own."""
    security, own = pod.spec["securityContext"], pod.container["securityContext"]
    (uid,) = set(re.findall(r"^USER (\d+):\1$", (DEPLOY.parent / "Dockerfile").read_text(), re.MULTILINE))
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == int(uid)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert security.get("supplementalGroups") == (None if name in ON_CPU else [1000])
    assert not pod.spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    kinds = {key for volume in pod.spec["volumes"] for key in volume if key != "name"}
    assert kinds <= {"emptyDir", "projected"} | ({"hostPath"} if name == "ascend-driver" else set())
    assert pod.spec["enableServiceLinks"] is False
    assert pod.spec["automountServiceAccountToken"] is False


def test_the_level_of_pod_security_allows_the_pods(objects: list[Object], name: str) -> None:
    levels = [made["metadata"]["labels"] for made in objects if made["kind"] == "Namespace"]
    if name in NO_ACCESS:
        assert levels == []
    else:
        level = "privileged" if name == "ascend-driver" else "restricted"
        assert levels == [{"pod-security.kubernetes.io/enforce": level}]


def test_every_mount_has_its_volume_and_every_file_its_mount(pod: Pod) -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in pod.container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod.spec["volumes"]}
    files = [value for value in environment_of(pod).values() if value.startswith("/")]
    folders = tuple(f"{path}/" for path in mounts.values())
    assert all(value.startswith(folders) for value in files)


def test_a_pod_has_one_npu_of_its_own(pod: Pod, objects: list[Object], name: str) -> None:
    given = pod.container["resources"]
    counted = {key for key in given["limits"] if key.startswith("huawei.com/") and not key.endswith("-memory")}
    assert counted == RENDERED[name][2]
    assert all(given["limits"][key] == "1" for key in counted)
    assert all(given["requests"].get(key, "1") == "1" for key in counted)
    assert {key for key in given["requests"] if key.startswith("huawei.com/")} <= counted
    if name == "dra":
        (template,) = (made for made in objects if made["kind"] == "ResourceClaimTemplate")
        (request,) = template["spec"]["spec"]["devices"]["requests"]
        assert request["exactly"]["count"] == 1
        assert pod.spec["resourceClaims"] == [
            {"name": "npu", "resourceClaimTemplateName": template["metadata"]["name"]}
        ]
        assert given["claims"] == [{"name": "npu"}]
    # An update must not wait for a spare NPU, nor stop a server on the CPU before the next one is ready.
    if pod.update.get("type") != "Recreate":
        wanted = {"maxSurge": 1, "maxUnavailable": 0} if name in ON_CPU else {"maxSurge": 0, "maxUnavailable": 1}
        assert pod.update["rollingUpdate"] == wanted


def test_services_budgets_and_policies_select_the_pods(pod: Pod, objects: list[Object], name: str) -> None:
    by_kind: dict[str, list[Object]] = {}
    for made in objects:
        by_kind.setdefault(made["kind"], []).append(made.get("spec", made))
    if name in NO_ACCESS:
        assert set(by_kind) == {"Deployment"}
        return
    ports = {port["name"] for port in pod.container["ports"]}
    for service in by_kind.get("Service", []):
        assert selected(service["selector"], pod)
        assert {port["targetPort"] for port in service["ports"]} <= ports
    assert ("Service" in by_kind) == (not name.startswith("kserve"))  # KServe makes its own
    (budget,) = by_kind["PodDisruptionBudget"]
    (policy,) = by_kind["NetworkPolicy"]
    assert selected(budget["selector"]["matchLabels"], pod)
    assert selected(policy["podSelector"]["matchLabels"], pod)
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports
    (spread,) = pod.spec["topologySpreadConstraints"]
    assert selected(spread["labelSelector"]["matchLabels"], pod)
    assert pod.spec["serviceAccountName"] in {made["metadata"]["name"] for made in by_kind["ServiceAccount"]}


def test_the_sdk_finds_every_pod_behind_the_service(tmp_path: Path) -> None:
    services = [made["spec"] for made in render("cpu", tmp_path) if made["kind"] == "Service"]
    assert [service["clusterIP"] for service in services] == ["None"]


def test_volcano_tells_the_container_its_card(tmp_path: Path) -> None:
    blue, green = pods_of(render("mindcluster", tmp_path)) + pods_of(render("mindcluster/green", tmp_path))
    for pod in (blue, green):
        (card,) = (one for one in pod.container["env"] if one["name"] == "ASCEND_VISIBLE_DEVICES")
        (resource,) = (key for key in pod.container["resources"]["limits"] if key.startswith("huawei.com/"))
        assert card["valueFrom"]["fieldRef"]["fieldPath"] == f"metadata.annotations['{resource}']"
        assert pod.spec["schedulerName"] == "volcano"
        assert pod.labels["ring-controller.atlas"] == "ascend-910b"
    assert blue.labels["mse-grad-colour"] != green.labels["mse-grad-colour"]


def test_with_tls_nothing_is_in_the_clear_and_callers_need_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = render("cpu", tmp_path, components=("components/tls",))
    (pod,) = pods_of(objects)
    settings = settings_of(pod, monkeypatch)
    assert not settings.insecure_listen
    assert settings.tls_certificate
    assert settings.token_file
    assert "h2c" not in str(objects)


def test_the_monitor_and_the_scaler_name_what_exists(tmp_path: Path) -> None:
    objects = render("cpu", tmp_path, components=EXTRAS)
    found = {(made["kind"], made["metadata"]["name"]): made for made in objects}
    service = found["Service", "mse-grad"]
    monitor = found["ServiceMonitor", "mse-grad"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "mse-grad"  # the job of rules and alerts
    assert {one["port"] for one in monitor["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}
    scaled = found["ScaledObject", "mse-grad"]["spec"]
    deployment = found["Deployment", scaled["scaleTargetRef"]["name"]]
    assert "replicas" not in deployment["spec"]
    route = found["GRPCRoute", "mse-grad"]["spec"]
    for backend in route["rules"][0]["backendRefs"]:
        ports = found["Service", backend["name"]]["spec"]["ports"]
        assert backend["port"] in {port["port"] for port in ports}


def test_the_monitor_of_kserve_finds_the_pods(tmp_path: Path) -> None:
    (pod,) = pods_of(render("kserve", tmp_path))
    monitor = pod_monitor(tmp_path)["spec"]
    assert selected(monitor["selector"]["matchLabels"], pod)
    assert pod.labels[monitor["jobLabel"]] == "mse-grad"  # the job of rules and alerts
    assert {one["port"] for one in monitor["podMetricsEndpoints"]} <= {port["name"] for port in pod.container["ports"]}


def test_behind_a_gateway_streams_end_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pod,) = pods_of(render("cpu", tmp_path, components=("components/gateway",)))
    assert settings_of(pod, monkeypatch).max_stream_age_s > 0


def test_the_overlay_of_the_page_renders_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (DEPLOY.parent / "docs/clusters.md").read_text()
    (text,) = (block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "my-cluster" in block)
    written = yaml.safe_load(text)
    above = Path(os.path.relpath(DEPLOY.parent, tmp_path))
    for key in ("resources", "components"):
        written[key] = [str(above / path.removeprefix("../")) for path in written[key]]
    objects = render_text(yaml.safe_dump(written), tmp_path)
    (deployment,) = (made for made in objects if made["kind"] == "Deployment")
    (pod,) = pods_of(objects)
    assert pod.container["image"] == "registry.example.com/mse-grad:1.0"
    assert deployment["spec"]["replicas"] == 4
    assert settings_of(pod, monkeypatch).compute_threads == 4
    assert "ServiceMonitor" in {made["kind"] for made in objects}


def test_the_patches_of_the_page_change_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (DEPLOY.parent / "docs/clusters.md").read_text()
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "my-cluster" not in block]
    patches = [patch for block in blocks for patch in yaml.safe_load(block)["patches"]]
    assert len(patches) == 2
    above = Path(os.path.relpath(KUBERNETES, tmp_path))
    objects = render_text(yaml.safe_dump({"resources": [str(above / "overlays/cpu")], "patches": patches}), tmp_path)
    (pod,) = pods_of(objects)
    assert [one["name"] for one in pod.container["env"]].count("MSE_GRAD_MAX_STREAMS") == 1
    assert settings_of(pod, monkeypatch).max_streams == 128
    test_callers_cannot_fill_the_memory_of_a_pod(pod, monkeypatch)
    (policy,) = (made["spec"] for made in objects if made["kind"] == "NetworkPolicy")
    (named,) = (one["namespaceSelector"] for one in policy["ingress"][1]["from"] if "namespaceSelector" in one)
    assert named == {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}


def test_the_page_names_every_overlay_and_component() -> None:
    page = (DEPLOY.parent / "docs/clusters.md").read_text()
    names = [path.parent.name for path in KUBERNETES.glob("*/*/kustomization.yaml") if path.parts[-3] != "base"]
    assert len(names) > 10
    assert [name for name in names if f"`{name}`" not in page and f"overlays/{name}" not in page] == []


def test_every_overlay_is_rendered_here() -> None:
    overlays = {path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml")}
    assert {overlay.split("/")[0] for overlay, _, _ in RENDERED.values()} == overlays
    used = {component for _, components, _ in RENDERED.values() for component in components}
    components: Sequence[str] = [f"components/{path.parent.name}" for path in KUBERNETES.glob("components/*/*.yaml")]
    assert used >= set(components) - {"components/ascend"}
