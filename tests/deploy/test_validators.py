"""Tests with the linters and validators of the programs that read the files in deploy/."""

import subprocess
from pathlib import Path

import pytest
import yaml

from support.toolchain import require

pytestmark = pytest.mark.slow
DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "zoomgate.service"
MAX_EXPOSURE = "20"
"""The highest accepted exposure of `systemd-analyze security`, in tenths. A unit without hardening has 96."""


@pytest.mark.parametrize(
    "command",
    [
        ("hadolint", DEPLOY / "Dockerfile"),
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"),
        ("caddy", "validate", "--adapter", "caddyfile", "--config", DEPLOY / "Caddyfile"),
        ("node", "--check", DEPLOY / "mongodb-init.js"),
        ("promtool", "check", "rules", DEPLOY / "alerts.yml"),
        ("systemd-analyze", "security", "--offline=yes", f"--threshold={MAX_EXPOSURE}", UNIT),
    ],
    ids=lambda command: command[0],
)
def test_file_is_valid(command: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOOMGATE_HOST", "zoomgate.example.com")
    check(*command)


def test_unit_is_valid(tmp_path: Path) -> None:
    """Without the installation, `systemd-analyze verify` would report that the program is missing."""
    installed = UNIT.read_text(encoding="utf-8").replace("/opt/zoomgate/bin/zoomgate", "/bin/true")
    (tmp_path / UNIT.name).write_text(installed, encoding="utf-8")
    assert check("systemd-analyze", "verify", tmp_path / UNIT.name) == ""


@pytest.mark.parametrize(
    ("remaining", "is_lost"), [(60, False), (31, False), (29, True)], ids=["processes end", "few", "many"]
)
def test_alert_detects_a_lost_store_behind_a_collector(remaining: int, is_lost: bool, tmp_path: Path) -> None:
    """All processes may have the same label `instance`. After half an hour, two of three end; the third one reports what remains."""
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    (rule,) = [row for row in group["rules"] if row["alert"] == "ZoomgateConnectionsMissing"]
    raised = [{"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}]
    series = 'zoomgate_connections{{state="active", instance="collector:9464", exported_instance="{}"}}'
    values = {"a": "60x30", "b": "60x30", "c": f"60x30 {remaining}x30"}
    test = {
        "interval": "1m",
        "input_series": [{"series": series.format(name), "values": row} for name, row in values.items()],
        "alert_rule_test": [
            {"eval_time": "45m", "alertname": rule["alert"], "exp_alerts": raised if is_lost else []}
        ],
    }
    content = {"rule_files": [str(DEPLOY / "alerts.yml")], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
    check("promtool", "test", "rules", tmp_path / "test.yml")


def check(tool: str | Path, *arguments: str | Path) -> str:
    """Run a tool, which must succeed, and return its output."""
    result = subprocess.run(
        [require(str(tool), "see .ci/run"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr
