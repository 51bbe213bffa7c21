"""Settings: where they come from, and what is refused."""

from pathlib import Path

import pytest

from zoomgate_server import settings
from zoomgate_server.settings import Address, Settings, SettingsError

APP = {"ZOOMGATE_CLIENT_ID": "app", "ZOOMGATE_CLIENT_SECRET": "hush"}


def problems(environ: dict[str, str], overrides: dict[str, str] | None = None) -> tuple[str, ...]:
    """What is wrong with settings that must be refused."""
    with pytest.raises(SettingsError) as error:
        settings.load(environ, overrides)
    return error.value.problems


def problem(environ: dict[str, str]) -> str:
    """The one thing that is wrong."""
    (only,) = problems(environ)
    return only


def load_file(path: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    """Load settings from a file."""
    path.write_text(text, encoding="utf-8")
    return settings.load({"ZOOMGATE_CONFIG": str(path)} | (environ or {}))


def secrets_of(loaded: Settings) -> list[str]:
    return [secret.reveal() for secret in loaded.client_secrets]


def test_nothing_set_gives_the_defaults() -> None:
    """An empty environment is a usable one."""
    loaded = settings.load({"PATH": "/usr/bin"})
    assert (str(loaded.listen), str(loaded.http_listen)) == ("127.0.0.1:50051", "127.0.0.1:8080")
    assert (loaded.data_dir, loaded.store_path, loaded.keys_path) == (
        Path(".zoomgate"),
        Path(".zoomgate/zoomgate.db"),
        Path(".zoomgate/keys.json"),
    )
    assert loaded.keys_are_default
    assert (loaded.zoom_api_url, loaded.zoom_oauth_url) == (
        "https://api.zoom.us/v2",
        "https://zoom.us/oauth",
    )
    assert (loaded.log_level, loaded.log_format, loaded.reflection) == ("info", "json", True)
    assert (loaded.client_id, loaded.client_secrets, loaded.callers_path) == ("", (), None)


def test_options_beat_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    """Each source gives way to the one above it, and an empty value counts as none."""
    file = tmp_path / "zoomgate.toml"
    file.write_text('listen = "127.0.0.1:1"\nhttp_listen = "127.0.0.1:2"\ndata_dir = "file"\n')
    loaded = settings.load(
        {
            "ZOOMGATE_CONFIG": str(file),
            "ZOOMGATE_LISTEN": "127.0.0.1:3",
            "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:4",
            "ZOOMGATE_DATA_DIR": "",
        },
        {"ZOOMGATE_LISTEN": "127.0.0.1:5"},
    )
    assert (loaded.listen.port, loaded.http_listen.port, loaded.data_dir) == (5, 4, Path("file"))


def test_a_toml_file_may_hold_every_kind_of_value(tmp_path: Path) -> None:
    """Strings, whole numbers, booleans and the table of places are read."""
    loaded = load_file(
        tmp_path / "z.toml",
        'drain_seconds = 5\nreflection = false\nstore = "sqlite:////srv/z.db"\n'
        '[return_to]\na = "https://a.example/x"\nb = "http://localhost:3000/y"\n',
    )
    assert (loaded.drain_seconds, loaded.reflection, loaded.store_path) == (5, False, Path("/srv/z.db"))
    assert loaded.return_to == {"a": "https://a.example/x", "b": "http://localhost:3000/y"}


def test_mistakes_in_the_file_name_file_and_line(tmp_path: Path) -> None:
    """Whoever has to correct the file is told where, everything at once, and a value from elsewhere is not blamed on it."""
    file = tmp_path / "z.toml"
    with pytest.raises(SettingsError) as error:
        load_file(
            file,
            'lisen = "x"\n\nlisten = "0.0.0.0:1"\ndrain_seconds = 1.5\nlog_level = "loud"\n'
            '[return_to]\nx = "ftp://y"\n',
            {"ZOOMGATE_LOG_LEVEL": "louder"},
        )
    found = "\n".join(error.value.problems)
    assert f"ZOOMGATE_CONFIG names {file}, where lisen (line 1) is no setting: did you mean listen?" in found
    assert f"ZOOMGATE_LISTEN ({file}:3) is '0.0.0.0:1'" in found
    assert f"ZOOMGATE_DRAIN_SECONDS ({file}:4) must be" in found
    assert f"ZOOMGATE_RETURN_TO ({file}:6) has 'x'" in found
    assert "ZOOMGATE_LOG_LEVEL is 'louder'" in found
    assert len(error.value.problems) == 5


@pytest.mark.parametrize("text", ["listen = ", "\x00", "a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    """The sentence names setting and file."""
    with pytest.raises(SettingsError, match=r"ZOOMGATE_CONFIG names .*z\.toml, which is no TOML"):
        load_file(tmp_path / "z.toml", text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is named must be there."""
    assert "cannot be read" in problem({"ZOOMGATE_CONFIG": str(tmp_path / "none.toml")})


def test_a_velo_configuration_is_understood(tmp_path: Path) -> None:
    """The files of the Velo package give client id, redirect URI and secret."""
    (tmp_path / "velo-zoom-integration-client-secret").write_text("hush\n")
    loaded = load_file(
        tmp_path / "config.json",
        '{"zoom": {"clientId": "velo-app", "redirectUri": "https://site.example/zoom"}, "other": 1}',
        {"ZOOMGATE_SECRETS_DIR": str(tmp_path)},
    )
    assert (loaded.client_id, loaded.redirect_uri) == ("velo-app", "https://site.example/zoom")
    assert secrets_of(loaded) == ["hush"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"zoom": {"clientId": "a"}}',
        '{"zoom": {"clientId": null, "redirectUri": "https://a/b"}}',
    ],
)
def test_another_json_file_is_refused(tmp_path: Path, text: str) -> None:
    """What is no Velo configuration is told so, and what one looks like."""
    with pytest.raises(SettingsError, match=r'must hold \{"zoom": \{"clientId"'):
        load_file(tmp_path / "config.json", text)


def test_what_kubernetes_says_of_a_service_of_this_name_is_no_mistake() -> None:
    """In a cluster with services called zoomgate and zoomgate-http the server starts; a port that a person set is a mistake still."""
    for name, port in (("ZOOMGATE", "50051"), ("ZOOMGATE_HTTP", "8080")):
        link = f"{name}_PORT_{port}_TCP"
        environ = {
            f"{name}_SERVICE_HOST": "10.0.0.11",
            f"{name}_SERVICE_PORT": port,
            f"{name}_SERVICE_PORT_GRPC": port,
            f"{name}_PORT": f"tcp://10.0.0.11:{port}",
            link: f"tcp://10.0.0.11:{port}",
            f"{link}_PROTO": "tcp",
            f"{link}_PORT": port,
            f"{link}_ADDR": "10.0.0.11",
        }
        settings.load(environ)
        assert "is no setting" in problem({f"{name}_PORT": port})


def test_unknown_variables_are_mistakes() -> None:
    """A typing mistake is not ignored, and the setting that was meant is named."""
    assert problem({"ZOOMGATE_LISTN": "x"}) == "ZOOMGATE_LISTN is no setting: did you mean ZOOMGATE_LISTEN?"
    assert problem({"ZOOMGATE_QQQQQQ": "x"}) == "ZOOMGATE_QQQQQQ is no setting"
    settings.load({"ZOOMGATE_SERVER": "x", "ZOOMGATE_KEY": "y"})


def test_webhook_secrets_come_newest_first_from_one_place(tmp_path: Path) -> None:
    """The environment wins over a file in the folder of secrets; neither is fine; what cannot be a secret is a mistake."""

    def secrets(environ: dict[str, str]) -> list[str]:
        return [secret.reveal() for secret in settings.load(APP | environ).webhook_secrets]

    folder = {"ZOOMGATE_SECRETS_DIR": str(tmp_path)}
    assert secrets({}) == []
    assert secrets(folder) == []
    (tmp_path / "zoom-webhook-secret-token").write_text("newer\nolder\n")
    assert secrets(folder) == ["newer", "older"]
    assert secrets(folder | {"ZOOMGATE_WEBHOOK_SECRET": "a b"}) == ["a", "b"]
    (tmp_path / "zoom-webhook-secret-token").write_text("\n")
    assert "which is empty" in problem(APP | folder)
    assert "copy it from Zoom again" in problem(APP | {"ZOOMGATE_WEBHOOK_SECRET": "hunter2é"})


@pytest.mark.parametrize(
    "name",
    ["ZOOMGATE_TLS_CLIENT_CA"],
)
def test_what_is_not_built_is_refused(name: str) -> None:
    """A setting that does nothing yet does not look as if it did."""
    assert problem({name: "x"}) == f"{name} is not supported in this version: leave it out"


@pytest.mark.parametrize(
    "store",
    [
        "mongo://u:hunter2@h/z",
        "postgres://u:hunter2@h",
        "sqlite:///",
        "z.db",
    ],
)
def test_other_stores_are_refused(store: str) -> None:
    """Only a SQLite file and a MongoDB database are stores, and an address with a password is not repeated."""
    text = problem({"ZOOMGATE_STORE": store})
    assert text.startswith("ZOOMGATE_STORE ")
    assert "hunter2" not in text


@pytest.mark.parametrize("name", ["ZOOMGATE_LISTEN", "ZOOMGATE_HTTP_LISTEN"])
@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:50051", "[::]:50051", ":50051", "192.0.2.1:50051", "no-such-host.invalid:1", "[fe80::1]:5"],
)
def test_other_machines_cannot_be_let_in(name: str, address: str) -> None:
    """Without TLS a listener outside loopback does not start."""
    text = problem({name: address})
    assert text.startswith(f"{name} is {address!r}")
    assert "127.0.0.1" in text


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:50051", "[::1]:0", "127.9.9.9:65535"])
def test_this_machine_is_let_in(address: str) -> None:
    """Every spelling of loopback is one, and port 0 may be asked for."""
    assert str(settings.load({"ZOOMGATE_LISTEN": address}).listen) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "50051",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:x",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "h:" + "9" * 5000,
        "h:٣",
        "h:1\n",
        "http://localhost:1",
        "//localhost:1",
        "localhost:80:1",
        "me@localhost:1",
        " localhost:1",
        "[localhost:1",
        "[x::1]:1",
    ],
)
def test_an_address_needs_host_and_port(text: str) -> None:
    """What is no HOST:PORT is no address."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        Address.parse(text)


@pytest.mark.parametrize("name", ["ZOOMGATE_LISTEN", "ZOOMGATE_HTTP_LISTEN"])
def test_a_url_to_listen_on_is_told_what_to_write(name: str) -> None:
    """The mistake is named for what it is, and not as a port that is in use."""
    assert problem({name: "http://localhost:1"}).startswith(
        f"{name} is 'http://localhost:1': write HOST:PORT, such as 127.0.0.1:"
    )


def test_client_secrets_come_newest_first_from_one_place(tmp_path: Path) -> None:
    """The environment, a file or a folder gives one or more secrets; two places at once are a mistake."""
    file = tmp_path / "secret"
    file.write_text("new\nold\n")
    named = {"ZOOMGATE_CLIENT_ID": "app", "ZOOMGATE_CLIENT_SECRET_FILE": str(file)}
    assert secrets_of(settings.load(named)) == ["new", "old"]
    assert secrets_of(settings.load(APP | {"ZOOMGATE_CLIENT_SECRET": "new old\n"})) == ["new", "old"]
    assert "cannot be combined" in problem(named | APP)


def test_client_id_and_secret_belong_together(tmp_path: Path) -> None:
    """One without the other is a mistake, said once: it is no wish for the simulated Zoom."""
    assert "ZOOMGATE_CLIENT_SECRET is required" in problem({"ZOOMGATE_CLIENT_ID": "app"})
    assert "ZOOMGATE_CLIENT_ID is required" in problem({"ZOOMGATE_CLIENT_SECRET": "hush"})
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "none"):
        found = problems({"ZOOMGATE_CLIENT_ID": "app", "ZOOMGATE_CLIENT_SECRET_FILE": str(tmp_path / name)})
        assert [text.partition(" leads to")[0] for text in found] == ["ZOOMGATE_CLIENT_SECRET_FILE"]


@pytest.mark.parametrize("client_id", ["a b", "a:b", "a\n", "ä", "x" * 129])
def test_a_client_id_must_look_like_one(client_id: str) -> None:
    """What Zoom could not have given is refused at the start, before the first person's consent fails."""
    assert "ZOOMGATE_CLIENT_ID" in problem(APP | {"ZOOMGATE_CLIENT_ID": client_id})


def test_a_secret_is_not_repeated_in_the_mistake_about_it() -> None:
    """A damaged secret is refused without being shown."""
    text = problem(APP | {"ZOOMGATE_CLIENT_SECRET": "hunter2é"})
    assert "ZOOMGATE_CLIENT_SECRET has characters" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("name", ["ZOOMGATE_ZOOM_API_URL", "ZOOMGATE_ZOOM_OAUTH_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "http://zoom.us/oauth",
        "http://127.0.0.1.evil.example/",
        "http://localhost.evil.example/",
        "ftp://127.0.0.1/",
        "https://",
        "https://user:pw@zoom.us/",
        "https://zoom.us/?a=b",
        "https://zoom.us/#a",
        "https://zoom.us:99999/",
        "https://zoom.us/ oauth",
        "https://zoom.us/\u202eoauth",
        "zoom.us",
    ],
)
def test_zoom_is_reached_through_https(name: str, url: str) -> None:
    """A token is not sent in the clear, nor to an address that is no plain base address."""
    assert problem({name: url}).startswith(f"{name} ")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8090/v2", "http://localhost:1/v2", "http://[::1]:1/v2"])
def test_a_zoom_on_this_machine_needs_no_https(url: str) -> None:
    """The simulated Zoom has no TLS; a slash at the end does not matter."""
    assert settings.load({"ZOOMGATE_ZOOM_API_URL": f"{url}/"}).zoom_api_url == url


@pytest.mark.parametrize(
    "url", ["http://site.example/cb", "https://site.example/cb#x", "https://site.example", "cb"]
)
def test_a_redirect_uri_that_zoom_would_refuse_is_refused(url: str) -> None:
    """A full https address is asked for."""
    assert problem({"ZOOMGATE_REDIRECT_URI": url}).startswith("ZOOMGATE_REDIRECT_URI must be")


def test_a_browser_is_sent_to_named_places_only(tmp_path: Path) -> None:
    """Places have a name and a safe address."""
    good = {"ZOOMGATE_RETURN_TO": "a=https://a.example/x?y=1, b=http://127.0.0.1:3000/"}
    assert settings.load(good).return_to == {"a": "https://a.example/x?y=1", "b": "http://127.0.0.1:3000/"}
    for bad in ("https://a.example", "a=http://a.example/", "a=javascript:alert(1)", "=https://a.example/"):
        assert problem({"ZOOMGATE_RETURN_TO": bad}).startswith("ZOOMGATE_RETURN_TO has")
    with pytest.raises(SettingsError, match="comma"):
        load_file(tmp_path / "z.toml", '[return_to]\na = "https://a.example/x,y=https://b.example/"\n')


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ZOOMGATE_DRAIN_SECONDS", ["-1", "601", "1.5", "x", "6_0", " 6", "٦", "9" * 5000]),
        ("ZOOMGATE_STORE_WAIT", ["-1", "3601", "x"]),
        ("ZOOMGATE_MAX_REFRESHES_PER_HOUR", ["1", "1001"]),
        ("ZOOMGATE_MAX_PENDING_PER_USER", ["0", "1001"]),
        ("ZOOMGATE_MAX_PENDING_PER_CALLER", ["0", "100001"]),
        ("ZOOMGATE_FORCED_REFRESH_SECONDS", ["3601"]),
        ("ZOOMGATE_DEFAULT_DURATION_MINUTES", ["0", "1441"]),
        ("ZOOMGATE_DEFAULT_TIMEZONE", ["Mars/Olympus", "../../etc/passwd"]),
        ("ZOOMGATE_DEFAULT_TOPIC", ["x" * 201, "a\nb", "a\u202eb"]),
        ("ZOOMGATE_LOG_LEVEL", ["INFO", "loud"]),
        ("ZOOMGATE_LOG_FORMAT", ["xml"]),
        ("ZOOMGATE_AUDIT", ["off", "stdout", "-"]),
        ("ZOOMGATE_AUDIT_REQUIRED", ["true", "no"]),
        ("ZOOMGATE_REFLECTION", ["true", "yes"]),
    ],
)
def test_values_outside_their_range_are_refused(name: str, wrong: list[str]) -> None:
    """Every refusal names the setting, and nothing is clamped in silence."""
    for value in wrong:
        assert problem({name: value}).startswith(f"{name} ")


def test_all_mistakes_are_told_at_once() -> None:
    """Nobody has to start the service once per mistake."""
    found = problems(
        {
            "ZOOMGATE_LISTN": "x",
            "ZOOMGATE_LISTEN": "0.0.0.0:1",
            "ZOOMGATE_STORE": "postgres://h/z",
            "ZOOMGATE_TLS_CLIENT_CA": "c",
            "ZOOMGATE_CLIENT_ID": "app",
            "ZOOMGATE_DRAIN_SECONDS": "x",
        },
        {"ZOOMGATE_LOG_LEVEL": "loud"},
    )
    assert len(found) == 7
    assert all("\n" not in text for text in found)


BEHIND_A_PROXY = {
    "ZOOMGATE_PUBLIC_URL": "https://zoomgate.example.com",
    "ZOOMGATE_TRUSTED_PROXIES": "10.0.0.7, fd00::/64",
}


def test_other_machines_are_let_in_over_tls_and_through_proxies() -> None:
    """GRPC needs certificate and key, HTTP an https address and the proxies in front; the redirect URI follows the address."""
    loaded = settings.load(
        BEHIND_A_PROXY
        | {
            "ZOOMGATE_LISTEN": "0.0.0.0:50051",
            "ZOOMGATE_HTTP_LISTEN": "0.0.0.0:8080",
            "ZOOMGATE_TLS_CERT": "c.pem",
            "ZOOMGATE_TLS_KEY": "k.pem",
        }
    )
    assert loaded.tls is not None
    assert loaded.redirect_uri == "https://zoomgate.example.com/oauth/callback"
    assert [str(network) for network in loaded.trusted_proxies] == ["10.0.0.7/32", "fd00::/64"]


@pytest.mark.parametrize(
    ("changed", "name", "text"),
    [
        ({"ZOOMGATE_TLS_CERT": "c"}, "ZOOMGATE_TLS_KEY", "set both or neither"),
        ({"ZOOMGATE_TLS_KEY": "c"}, "ZOOMGATE_TLS_CERT", "set both or neither"),
        (
            {"ZOOMGATE_HTTP_LISTEN": "0.0.0.0:1", "ZOOMGATE_TRUSTED_PROXIES": ""},
            "ZOOMGATE_HTTP_LISTEN",
            "TRUSTED_PROXIES",
        ),
        (
            {"ZOOMGATE_HTTP_LISTEN": "0.0.0.0:1", "ZOOMGATE_PUBLIC_URL": "http://127.0.0.1:1"},
            "ZOOMGATE_HTTP_LISTEN",
            "https",
        ),
        ({"ZOOMGATE_PUBLIC_URL": "http://zoomgate.example.com"}, "ZOOMGATE_PUBLIC_URL", "must be https"),
        ({"ZOOMGATE_PUBLIC_URL": "zoomgate.example.com"}, "ZOOMGATE_PUBLIC_URL", "write https://"),
        ({"ZOOMGATE_PUBLIC_URL": "https://x.example/path"}, "ZOOMGATE_PUBLIC_URL", "write https://"),
        ({"ZOOMGATE_PUBLIC_URL": "https://u:p@x.example"}, "ZOOMGATE_PUBLIC_URL", "write https://"),
        ({"ZOOMGATE_TRUSTED_PROXIES": "proxy.example"}, "ZOOMGATE_TRUSTED_PROXIES", "write addresses"),
        ({"ZOOMGATE_TRUSTED_PROXIES": "10.0.0.1/8"}, "ZOOMGATE_TRUSTED_PROXIES", "write addresses"),
        ({"ZOOMGATE_TRUSTED_PROXIES": "0.0.0.0/0"}, "ZOOMGATE_TRUSTED_PROXIES", "everybody"),
        (
            {"ZOOMGATE_REDIRECT_URI": "https://other.example/oauth/callback"},
            "ZOOMGATE_REDIRECT_URI",
            "https://zoomgate.example.com/oauth/callback",
        ),
    ],
)
def test_a_front_that_cannot_be_right_is_refused(changed: dict[str, str], name: str, text: str) -> None:
    """The setting is named, and what to write instead."""
    found = problem(BEHIND_A_PROXY | changed)
    assert found.startswith(name)
    assert text in found


@pytest.mark.parametrize(
    ("name", "value"),
    [("NAME", " "), ("NAME", "x" * 61), ("COLOR", "red"), ("COLOR", "#fff"), ("COLOR", "#0b5cff;}")],
)
def test_a_brand_that_cannot_be_shown_is_refused(name: str, value: str) -> None:
    """Name and colour have rules, and the sentence says them."""
    assert problem({f"ZOOMGATE_BRAND_{name}": value}).startswith(
        f"ZOOMGATE_BRAND_{name} is {value!r}: it must"
    )
