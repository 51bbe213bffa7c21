"""Tests for the Helm chart, rendered with the value files in its folder ci/."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.toolchain import require

pytestmark = pytest.mark.slow
CHART = Path(__file__).parents[2] / "deploy/helm/zoomgate"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"), reverse=True)
KUBERNETES = ("1.30.0", "1.37.0")
"""The first version that the chart supports, and the newest one whose schemas `kubernetes-validate` contains."""

Manifest = dict[str, Any]


def helm(command: str, *arguments: str, succeeds: bool = True) -> str:
    """Run helm on the chart, and return the output, or the errors if it must fail."""
    result = subprocess.run(
        [require("helm", "see .ci/run"), command, *arguments], capture_output=True, text=True, check=False
    )
    assert (result.returncode == 0) is succeeds, result.stdout + result.stderr
    return result.stdout if succeeds else result.stderr


def render(*arguments: str, version: str = KUBERNETES[-1]) -> str:
    return helm("template", "release", str(CHART), "--kube-version", version, *arguments)


@pytest.fixture(params=VALUES, ids=lambda path: path.stem)
def rendered(request: pytest.FixtureRequest) -> dict[str, Manifest]:
    """Return the manifests by kind; the headless service is `Pods`."""
    return by_kind(request.param)


@pytest.fixture
def with_everything() -> dict[str, Manifest]:
    """Return the manifests with all optional parts of the chart."""
    return by_kind(CHART / "ci/full-values.yaml")


def by_kind(values: Path) -> dict[str, Manifest]:
    manifests = list(yaml.safe_load_all(render("--values", str(values))))
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
    minimal = str(CHART / "ci/minimal-values.yaml")
    arguments = ("--kube-version", KUBERNETES[-1], "--values", minimal, "--set-json", value)
    assert problem in helm("template", "release", str(CHART), *arguments, succeeds=False)


def container(rendered: dict[str, Manifest]) -> Manifest:
    row: Manifest
    (row,) = rendered["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    return row
