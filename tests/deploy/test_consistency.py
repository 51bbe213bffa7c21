"""Tests for the consistency of the files in deploy/ with each other and with the code."""

import json
import re
from importlib.metadata import version
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from zoomgate_server.app.timing import Timing
from zoomgate_server.settings import SETTINGS, Settings, load

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm/zoomgate"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
UNIT = (DEPLOY / "zoomgate.service").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
STATEFULSET = (CHART / "templates/statefulset.yaml").read_text(encoding="utf-8")
REPLICAS = {name: row for name, row in COMPOSE["services"].items() if name.startswith("zoomgate-")}
SECRETS = {"ZOOMGATE_STORE", "ZOOMGATE_CLIENT_SECRET", "ZOOMGATE_WEBHOOK_SECRET"}
"""The settings whose values are secrets, not paths."""


def defaults() -> Settings:
    return load({})


def grace_periods() -> dict[str, int]:
    """Return the seconds between SIGTERM, or the start of preStop, and SIGKILL in each kind of deployment."""
    (unit,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    return {
        "systemd": int(unit),
        "helm": VALUES["terminationGracePeriodSeconds"],
        **{name: int(row["stop_grace_period"].removesuffix("s")) for name, row in REPLICAS.items()},
    }


def test_grace_periods_are_those_of_the_documentation() -> None:
    assert set(grace_periods().values()) == {120}


@pytest.mark.parametrize("deployment", list(grace_periods()))
def test_grace_period_covers_the_shutdown(deployment: str) -> None:
    """After the calls and the token requests, telemetry, the HTTP server, the store and the log need time."""
    drain = defaults().drain_seconds
    if deployment == "helm":  # Kubernetes counts preStop
        drain = VALUES["settings"]["drain_seconds"] + VALUES["preStopSeconds"]
    assert grace_periods()[deployment] >= drain + Timing().drain + 50


def test_deployments_use_existing_settings() -> None:
    files = [path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix not in (".lock", ".json")]
    used = {
        name
        for path in files
        for name in re.findall(r"\bZOOMGATE_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8"))
    }
    known = {setting.variable for setting in SETTINGS}
    assert used - known == {"ZOOMGATE_HOST"}  # a variable of compose.yaml


def test_chart_accepts_every_setting_that_it_does_not_set_itself() -> None:
    """Secrets cannot be values of the chart. They would be stored in the release and shown in the pod."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    by_chart = set(re.findall(r'^ +"(\w+)" "/etc/zoomgate', STATEFULSET, re.MULTILINE))
    by_image = {name.lower() for name in re.findall(r"ZOOMGATE_(\w+)=", DOCKERFILE)} - {"audit"}
    excluded = {name.removeprefix("ZOOMGATE_").lower() for name in SECRETS} | {"config", "client_secret_file"}
    expected = [row.name for row in SETTINGS if row.name not in by_chart | by_image | excluded]
    assert schema["properties"]["settings"]["propertyNames"]["enum"] == expected


def test_no_secret_is_in_the_environment() -> None:
    environments = [
        *re.findall(r"(ZOOMGATE_\w+)=", DOCKERFILE),
        *re.findall(r"^Environment=(\w+)=", UNIT, re.MULTILINE),
        *(name for row in REPLICAS.values() for name in row["environment"]),
    ]
    assert SECRETS.isdisjoint(environments)


def test_each_replica_of_compose_has_its_own_data_folder() -> None:
    data = [volume for row in REPLICAS.values() for volume in row["volumes"] if "/var/lib" in volume]
    assert data == [f"{name}:/var/lib/zoomgate" for name in REPLICAS]
    assert set(REPLICAS) <= set(COMPOSE["volumes"])
    (data_dir,) = re.findall(r"ZOOMGATE_DATA_DIR=(\S+)", DOCKERFILE)
    assert Path(data_dir).is_relative_to("/var/lib/zoomgate")
    assert re.findall(r"^VOLUME (.+)$", DOCKERFILE, re.MULTILINE) == ["/var/lib/zoomgate"]


def test_only_the_tools_of_compose_can_write_secrets() -> None:
    """They are in a profile, so `docker compose up` does not start them."""
    services = COMPOSE["services"].items()
    writers = [
        name
        for name, row in services
        for volume in row.get("volumes", [])
        if re.match(r"\./.*(?<!:ro)$", volume)
    ]
    assert writers == ["tools"]
    assert COMPOSE["services"]["tools"]["profiles"]


def test_ports_agree() -> None:
    environ = dict(re.findall(r"ZOOMGATE_(LISTEN|HTTP_LISTEN)=0\.0\.0\.0:(\d+)", DOCKERFILE))
    grpc, http = environ["LISTEN"], environ["HTTP_LISTEN"]
    assert re.findall(r"^EXPOSE (.+)$", DOCKERFILE, re.MULTILINE) == [f"{grpc} {http}"]
    assert re.findall(r"127\.0\.0\.1:(\d+)/readyz", DOCKERFILE) == [http]
    assert re.findall(r"containerPort: (\d+)", STATEFULSET) == [grpc, http]
    services = (CHART / "templates/services.yaml").read_text(encoding="utf-8")
    assert re.findall(r"port: (\d+)", services) == [grpc, http]
    assert {row["ports"][0].partition(":")[2] for row in REPLICAS.values()} == {grpc}
    upstreams = re.findall(r"reverse_proxy (.+) \{", (DEPLOY / "Caddyfile").read_text(encoding="utf-8"))
    assert upstreams == [" ".join(f"{name}:{http}" for name in REPLICAS)]


def test_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    current = version("zoomgate-server")
    assert (chart["version"], chart["appVersion"]) == (current, current)
    assert {row["image"] for row in REPLICAS.values()} == {f"zoomgate:{current}"}


def test_secrets_of_compose_are_used() -> None:
    used = {name for row in COMPOSE["services"].values() for name in row.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])


def test_proxy_of_compose_is_trusted() -> None:
    address = COMPOSE["services"]["proxy"]["networks"]["front"]["ipv4_address"]
    assert {row["environment"]["ZOOMGATE_TRUSTED_PROXIES"] for row in REPLICAS.values()} == {address}
    (pool,) = COMPOSE["networks"]["front"]["ipam"]["config"]
    assert ip_address(address) in ip_network(pool["subnet"])
    assert ip_address(address) not in ip_network(pool["ip_range"])  # no other container can get it
