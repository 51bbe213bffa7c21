"""Tests for the documentation of settings and the protection of secrets."""

import copy
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from support.command_line import zoomgate
from zoomgate_server import settings
from zoomgate_server.secret import Secret
from zoomgate_server.settings import SETTINGS
from zoomgate_server.settings.definition import Setting
from zoomgate_server.settings.sources import CLIENT_VARIABLES

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "configuration.md"


TABLE = re.compile(
    r"(?<=\| setting \| value \| default \| description \|\n\|---\|---\|---\|---\|\n)(?:\|.*\n)+"
)


def test_settings_are_documented(request: pytest.FixtureRequest) -> None:
    """The table on the documentation page has a row for each setting. Run pytest with --regenerate to update it."""
    rows = [
        f"| `{setting.variable}` | {setting.type.values} | {setting.default or 'none'} | {setting.description} |\n"
        for setting in SETTINGS
    ]
    page = DOCUMENTATION.read_text(encoding="utf-8")
    if request.config.getoption("--regenerate"):
        page = TABLE.sub(lambda _: "".join(rows), page)
        DOCUMENTATION.write_text(page, encoding="utf-8")
    assert TABLE.findall(page) == ["".join(rows)]


def test_unknown_settings_are_not_documented() -> None:
    documented = set(re.findall(r"ZOOMGATE_[A-Z_]+[A-Z]", DOCUMENTATION.read_text(encoding="utf-8")))
    assert documented == {setting.variable for setting in SETTINGS} | CLIENT_VARIABLES


def test_documented_config_file_is_accepted(tmp_path: Path) -> None:
    """The first TOML example on the page is a valid settings file."""
    example = re.findall(r"```toml\n(.*?)```", DOCUMENTATION.read_text(encoding="utf-8"), re.DOTALL)[0]
    (tmp_path / "secret").write_text("hush\n")
    file = tmp_path / "zoomgate.toml"
    file.write_text(
        example.replace('client_id = "…"', 'client_id = "app"').replace(
            "/etc/zoomgate/client-secret", str(tmp_path / "secret")
        ),
        encoding="utf-8",
    )
    loaded = settings.load({"ZOOMGATE_CONFIG": str(file)})
    assert (loaded.drain_seconds, loaded.reflection) == (20, False)
    assert list(loaded.return_to) == ["calendar"]


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """The repr, str, and copies of the settings do not contain secrets."""
    (tmp_path / "velo-zoom-integration-client-secret").write_text("hunter2-file")
    for source in (
        {"ZOOMGATE_CLIENT_SECRET": "hunter2-new hunter2-old", "ZOOMGATE_WEBHOOK_SECRET": "hunter2-hook"},
        {"ZOOMGATE_SECRETS_DIR": str(tmp_path)},
    ):
        loaded = settings.load(
            {"ZOOMGATE_CLIENT_ID": "app", "ZOOMGATE_STORE": "mongodb://u:hunter2@hunter2/z?hunter2"} | source
        )
        representations = [repr(loaded), str(loaded), f"{loaded}", repr(asdict(copy.deepcopy(loaded)))]
        assert not [text for text in representations if "hunter2" in text]
        assert all(secret.reveal().startswith("hunter2") for secret in loaded.client_secret)
        assert isinstance(loaded.store, Secret)
        assert "hunter2" in loaded.store.reveal()


UNPRINTABLE = (
    "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n",
    "hunter2-new\nhunter2-old\n",
    "hunter2\x07é://hunter2:hunter2@host",
)
"""Values that no setting shows; some settings accept them."""

KEY_ON_ONE_LINE = r"-----BEGIN PRIVATE KEY-----\nhunter2"
"""A value that no setting of a secret or a path shows."""

PRINTABLE = (
    "hunter2",
    "app:hunter2",
    "https://user:hunter2@host/#",
    "https://user:hunter2@host/?to=https://host",
)
"""Values that no setting of a secret or of a file with a secret shows."""


def mistaken_values(setting: Setting) -> Iterator[str]:
    """Yield values that contain a secret, which an operator may have confused with a valid value."""
    yield from UNPRINTABLE
    is_path = "path" in setting.type.values
    if setting.type.secret or is_path:
        yield KEY_ON_ONE_LINE
    if setting.type.secret and not is_path:
        yield from PRINTABLE
    if setting.name in ("client_secret_file", "secrets_dir", "return_to"):
        yield from PRINTABLE


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_errors_do_not_show_secret_values(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in mistaken_values(setting):
        for app in ({}, {"ZOOMGATE_CLIENT_ID": "app", "ZOOMGATE_ZOOM_OAUTH_URL": "http://127.0.0.1:9/oauth"}):
            result = zoomgate("doctor", "--json", environ=app | {setting.variable: value})
            assert result.exception is None or isinstance(result.exception, SystemExit)
            assert "hunter2" not in result.output, (value, app)
