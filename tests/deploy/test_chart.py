"""Tests for the Helm chart, rendered with the value files in its folder ci/."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.toolchain import require

pytestmark = pytest.mark.slow
CHART = Path(__file__).parents[2] / "deploy/helm/zoomgate"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"), reverse=True)
MINIMAL, FULL = (("--values", str(path)) for path in VALUES)
KUBERNETES = ("1.30.0", "1.37.0")
"""The first version that the chart supports, and the newest one whose schemas `kubernetes-validate` contains."""
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

Manifest = dict[str, Any]


def helm(command: str, *arguments: str, succeeds: bool = True) -> str:
    """Run helm on the chart, and return the output, or the errors if it must fail."""
    result = subprocess.run(
        [require("helm", "see .ci/run"), command, *arguments], capture_output=True, text=True, check=False
    )
    assert (result.returncode == 0) is succeeds, result.stdout + result.stderr
    return result.stdout if succeeds else result.stderr


def render(*arguments: str, release: str = "release", version: str = KUBERNETES[-1]) -> str:
    return helm("template", release, str(CHART), "--kube-version", version, *arguments)


def rejection(*arguments: str) -> str:
    """Return the error of helm, which must reject the values."""
    command = ("template", "release", str(CHART), "--kube-version", KUBERNETES[-1])
    return helm(*command, *arguments, succeeds=False)


@pytest.fixture(params=VALUES, ids=lambda path: path.stem)
def rendered(request: pytest.FixtureRequest) -> dict[str, Manifest]:
    """Return the manifests by kind; the headless service is `Pods`."""
    return by_kind("--values", str(request.param))


@pytest.fixture
def with_everything() -> dict[str, Manifest]:
    """Return the manifests with all optional parts of the chart."""
    return by_kind(*FULL)


def by_kind(*arguments: str, release: str = "release") -> dict[str, Manifest]:
    manifests = list(yaml.safe_load_all(render(*arguments, release=release)))
    return {"Pods" if row["spec"].get("clusterIP") == "None" else row["kind"]: row for row in manifests}


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_chart_passes_the_linter(values: Path) -> None:
    helm("lint", "--strict", "--kube-version", KUBERNETES[-1], "--values", str(values), str(CHART))


def test_documented_values_are_valid(tmp_path: Path) -> None:
    page = (CHART.parents[2] / "docs/deploy.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.+?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "values.yaml").write_text(example.replace("…", "app"), encoding="utf-8")
    render("--values", str(tmp_path / "values.yaml"))


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_manifests_match_the_schemas_of_kubernetes(values: Path, version: str, tmp_path: Path) -> None:
    """The resources of the Prometheus operator have no schema in Kubernetes."""
    manifests = yaml.safe_load_all(render("--values", str(values), version=version))
    of_kubernetes = [row for row in manifests if not row["apiVersion"].startswith("monitoring.coreos.com/")]
    (tmp_path / "manifests.yaml").write_text(yaml.safe_dump_all(of_kubernetes), encoding="utf-8")
    tool = require("kubernetes-validate", "see .ci/run")
    command = [tool, "--strict", "-k", version, str(tmp_path / "manifests.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_data_folder_survives_the_pod(rendered: dict[str, Manifest]) -> None:
    """Each pod has a claim of its own, which is retained. Only /tmp is lost with the pod."""
    spec = rendered["StatefulSet"]["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert set(spec["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    mounts = {row["mountPath"]: row["name"] for row in container(rendered)["volumeMounts"]}
    assert mounts["/var/lib/zoomgate"] == claim["metadata"]["name"]
    lost = [row["name"] for row in spec["template"]["spec"]["volumes"] if "emptyDir" in row]
    assert lost == [mounts["/tmp"]]  # noqa: S108 - a path in the container


def test_replica_has_a_stable_name(rendered: dict[str, Manifest]) -> None:
    assert rendered["StatefulSet"]["spec"]["serviceName"] == rendered["Pods"]["metadata"]["name"]


def test_secrets_come_from_secrets(rendered: dict[str, Manifest]) -> None:
    """Secrets are mounted as files, which are readable by the service's group. No variable is or refers to a secret."""
    assert {"ConfigMap", "Secret"}.isdisjoint(rendered)
    environ = {row["name"]: row for row in container(rendered)["env"]}
    assert {"ZOOMGATE_STORE", "ZOOMGATE_CLIENT_SECRET", "ZOOMGATE_WEBHOOK_SECRET"}.isdisjoint(environ)
    assert not [row for row in container(rendered)["env"] if "valueFrom" in row]
    pod = rendered["StatefulSet"]["spec"]["template"]["spec"]
    (files,) = [row["projected"] for row in pod["volumes"] if "projected" in row]
    assert files["defaultMode"] == 0o440
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    mounted = {item["path"] for source in files["sources"] for item in source["secret"]["items"]}
    paths = {Path(row["value"]).name for row in environ.values() if row["value"].startswith("/etc/zoomgate/")}
    assert mounted == paths | {"velo-zoom-integration-client-secret", "zoom-webhook-secret-token"}


def test_container_is_restricted(rendered: dict[str, Manifest]) -> None:
    """The pod fulfills the restricted Pod Security Standard, and its root file system is read-only."""
    pod = rendered["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(rendered)["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod["automountServiceAccountToken"]


def test_everything_selects_the_pods(rendered: dict[str, Manifest]) -> None:
    labels = rendered["StatefulSet"]["spec"]["template"]["metadata"]["labels"].items()
    for selector in (
        rendered["StatefulSet"]["spec"]["selector"]["matchLabels"],
        rendered["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        rendered["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        rendered["Service"]["spec"]["selector"],
        rendered["Pods"]["spec"]["selector"],
    ):
        assert selector.items() <= labels


def test_service_monitor_scrapes_each_pod_once(with_everything: dict[str, Manifest]) -> None:
    """Both services select the pods, but the monitor selects only one of the services."""
    selected = with_everything["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()
    assert selected <= with_everything["Pods"]["metadata"]["labels"].items()
    assert not selected <= with_everything["Service"]["metadata"]["labels"].items()


def test_alert_rules_are_those_of_the_repository(with_everything: dict[str, Manifest]) -> None:
    assert with_everything["PrometheusRule"]["spec"] == yaml.safe_load(
        (CHART.parents[1] / "alerts.yml").read_text()
    )


def test_ingress_serves_browsers_and_zoom_only(with_everything: dict[str, Manifest]) -> None:
    (rule,) = with_everything["Ingress"]["spec"]["rules"]
    assert {row["path"] for row in rule["http"]["paths"]} == {"/oauth/", "/webhooks/zoom"}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ('settings.store="mongodb://user:password@host/zoomgate"', "invalid propertyName 'store'"),
        ('settings.client_secret="secret"', "invalid propertyName 'client_secret'"),
        ('settings.lsiten="0.0.0.0:1"', "invalid propertyName 'lsiten'"),
        ('settings.public_url="http://zoomgate.example.com"', "/settings/public_url"),
        ('settings.trusted_proxies=""', "/settings/trusted_proxies"),
        ("settings.drain_seconds=26", "terminationGracePeriodSeconds must be at least"),
        ("preStopSeconds=6", "terminationGracePeriodSeconds must be at least"),
        ("networkPolicy.httpFrom=null", "missing property 'httpFrom'"),
        ("networkPolicy.httpFrom=[]", "/networkPolicy/httpFrom"),
        ("networkPolicy.grpcFrom=[]", "/networkPolicy/grpcFrom"),
        ("monitoring.serviceMonitor=true", "requires settings.metrics_networks"),
        ('extraEnv[0].name="ZOOMGATE_STORE"', "/extraEnv/0/name"),
        ("ingress.enabled=true", "/ingress/host"),
        ("replicaCount=3", "replicaCount"),
    ],
)
def test_invalid_value_is_rejected(value: str, problem: str) -> None:
    """Secrets in values and unknown names are detected before anything is installed."""
    assert problem in rejection(*MINIMAL, "--set-json", value)


def paths(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Return the dotted paths of all values."""
    for name, value in values.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{name}.")


OPTIONAL = {
    "image.tag",
    "imagePullSecrets",
    "settings.metrics_networks",
    "persistence.storageClassName",
    "extraEnv",
    *paths({"resources": DEFAULTS["resources"]}),
    "topologySpreadConstraints",
    "nodeSelector",
    "tolerations",
    "affinity",
    "podAnnotations",
    "podLabels",
    "ingress.className",
    "ingress.annotations",
    "networkPolicy.extraEgress",
    "monitoring.labels",
}
"""Values without which the manifests are valid."""


@pytest.mark.parametrize("path", [path for path in paths(DEFAULTS) if path not in OPTIONAL])
def test_required_value_cannot_be_removed(path: str) -> None:
    """Helm removes the default of a value that is null."""
    assert f"missing property '{path.rpartition('.')[2]}'" in rejection(*FULL, "--set", f"{path}=null")


@pytest.mark.parametrize("path", sorted(OPTIONAL))
def test_optional_value_can_be_removed(path: str) -> None:
    everything = "monitoring.alerts=true,ingress.enabled=true,ingress.host=host,ingress.tlsSecret=tls"
    assert "null" not in json.dumps(by_kind(*MINIMAL, "--set", f"{everything},{path}=null"))


def test_labels_of_the_chart_cannot_be_replaced(with_everything: dict[str, Manifest]) -> None:
    labels = {
        "podLabels": with_everything["StatefulSet"]["spec"]["template"]["metadata"]["labels"],
        "monitoring.labels": with_everything["ServiceMonitor"]["metadata"]["labels"],
    }
    for value, row in labels.items():
        for name in filter(re.compile(r"(app\.kubernetes\.io|helm\.sh)/").match, row):
            problem = rejection(*FULL, "--set-json", f"{value}={json.dumps({name: 'other'})}")
            assert f"invalid propertyName '{name}'" in problem


def test_spread_constraint_always_selects_the_pods_of_the_release() -> None:
    selector = {"matchLabels": {"app.kubernetes.io/name": "other", "team": "identity"}}
    constraints = json.dumps([{"topologyKey": "rack", "labelSelector": selector}])
    manifests = by_kind(*MINIMAL, "--set-json", f"topologySpreadConstraints={constraints}")
    spec = manifests["StatefulSet"]["spec"]
    labels = {**spec["selector"]["matchLabels"], "team": "identity"}
    assert spec["template"]["spec"]["topologySpreadConstraints"] == [
        {"topologyKey": "rack", "labelSelector": {"matchLabels": labels}}
    ]


@pytest.mark.parametrize("text", ["123", "1.5e+3", "true", "null", "*.example.com", "a: b # c"])
def test_text_remains_text(text: str, tmp_path: Path) -> None:
    """Text that has a meaning in YAML is the same in the manifests."""
    expected = json.dumps(with_free_strings("PLAIN", tmp_path)).replace("PLAIN", text)
    assert with_free_strings(text, tmp_path) == json.loads(expected)


def with_free_strings(text: str, directory: Path) -> dict[str, Manifest]:
    (directory / "values.json").write_text(json.dumps(free_strings(SCHEMA, text)), encoding="utf-8")
    return by_kind(*FULL, "--values", str(directory / "values.json"))


def free_strings(schema: dict[str, Any], text: str) -> dict[str, Any]:
    """Return values that set everything for which the schema accepts any text."""
    values = {}
    for name, row in schema["properties"].items():
        if "properties" in row:
            values[name] = free_strings(row, text)
        elif row.get("type") == "string" and "pattern" not in row:
            values[name] = text
    return values


@pytest.mark.parametrize("release", ["123", "true"])
def test_release_name_remains_text(release: str) -> None:
    for manifest in by_kind(*FULL, release=release).values():
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == release


@pytest.mark.parametrize(
    "release", ["a" * 53, "1" * 53, "zoomgate-" + "a" * 44, "a" * 50 + "--b", "2030.1.2", "1zoomgate"]
)
def test_names_are_valid_for_any_release(release: str) -> None:
    """Names of services start with a letter. The controller adds a hyphen and at most 10 characters to the name of the StatefulSet."""
    manifests = by_kind(*FULL, release=release)
    names = [row["metadata"]["name"] for row in manifests.values()]
    names += [manifests["StatefulSet"]["metadata"]["name"] + "-0123456789"]
    for name in names:
        assert re.fullmatch("[a-z][a-z0-9-]{,61}[a-z0-9]", name)


def test_settings_are_literal() -> None:
    """Kubernetes replaces $(NAME) by a variable of the container, and $$ by $."""
    rendered = by_kind(*MINIMAL, "--set", "settings.brand_name=$(HOSTNAME) $$")
    assert {"name": "ZOOMGATE_BRAND_NAME", "value": "$$(HOSTNAME) $$$$"} in container(rendered)["env"]


def test_service_can_stop_without_draining() -> None:
    grace = 90 + DEFAULTS["preStopSeconds"]
    rendered = by_kind(*MINIMAL, "--set", f"settings.drain_seconds=0,terminationGracePeriodSeconds={grace}")
    assert {"name": "ZOOMGATE_DRAIN_SECONDS", "value": "0"} in container(rendered)["env"]


def container(rendered: dict[str, Manifest]) -> Manifest:
    row: Manifest
    (row,) = rendered["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    return row
