"""Tests for the sources, validation, and error messages of settings."""

import os
from pathlib import Path

import pytest

from zoomgate_server import settings
from zoomgate_server.secret import Secret
from zoomgate_server.settings import Settings, SettingsError
from zoomgate_server.settings.address import Address

APP = {"ZOOMGATE_CLIENT_ID": "app", "ZOOMGATE_CLIENT_SECRET": "hush"}


def problems(environ: dict[str, str], options: dict[str, str] | None = None) -> tuple[str, ...]:
    """Load settings that must be rejected, and return the reported problems."""
    with pytest.raises(SettingsError) as error:
        settings.load(environ, options)
    return error.value.problems


def problem(environ: dict[str, str], options: dict[str, str] | None = None) -> str:
    """Load settings that must be rejected, and return the only reported problem."""
    (only,) = problems(environ, options)
    return only


def load_file(path: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    """Load settings from a file with the given text."""
    path.write_text(text, encoding="utf-8")
    return settings.load({"ZOOMGATE_CONFIG": str(path)} | (environ or {}))


def secrets_of(loaded: Settings) -> list[str]:
    return [secret.reveal() for secret in loaded.client_secret]


def test_empty_environment_yields_the_defaults() -> None:
    loaded = settings.load({"PATH": "/usr/bin"})
    assert (str(loaded.listen), str(loaded.http_listen)) == ("127.0.0.1:50051", "127.0.0.1:8080")
    assert (loaded.data_dir, loaded.store, loaded.keys) == (
        Path(".zoomgate"),
        Path(".zoomgate/zoomgate.db"),
        Path(".zoomgate/keys.json"),
    )
    assert loaded.keys_are_default
    assert (loaded.zoom_api_url, loaded.zoom_oauth_url) == (
        "https://api.zoom.us/v2",
        "https://zoom.us/oauth",
    )
    assert (loaded.log_level, loaded.log_format, loaded.reflection) == ("info", "auto", True)
    assert (loaded.client_id, loaded.client_secret, loaded.callers) == ("", (), None)


def test_options_override_the_environment_which_overrides_the_file(tmp_path: Path) -> None:
    """An empty value is treated as unset."""
    file = tmp_path / "zoomgate.toml"
    file.write_text('listen = "127.0.0.1:1"\nhttp_listen = "127.0.0.1:2"\ndata_dir = "file"\n')
    loaded = settings.load(
        {
            "ZOOMGATE_CONFIG": str(file),
            "ZOOMGATE_LISTEN": "127.0.0.1:3",
            "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:4",
            "ZOOMGATE_DATA_DIR": "",
        },
        {"listen": "127.0.0.1:5"},
    )
    assert (loaded.listen.port, loaded.http_listen.port, loaded.data_dir) == (5, 4, Path("file"))


def test_toml_file_accepts_all_value_types(tmp_path: Path) -> None:
    """Strings, integers, booleans, and the table of redirect targets are accepted."""
    loaded = load_file(
        tmp_path / "z.toml",
        'drain_seconds = 5\nreflection = false\nstore = "sqlite:////srv/z.db"\n'
        '[return_to]\na = "https://a.example/x"\nb = "http://localhost:3000/y"\n',
    )
    assert (loaded.drain_seconds, loaded.reflection, loaded.store) == (5, False, Path("/srv/z.db"))
    assert loaded.return_to == {"a": "https://a.example/x", "b": "http://localhost:3000/y"}


def test_problems_in_the_file_have_file_and_line(tmp_path: Path) -> None:
    """All problems are reported together, and a value from a different source is not attributed to the file."""
    file = tmp_path / "z.toml"
    with pytest.raises(SettingsError) as error:
        load_file(
            file,
            'lisen = "x"\nqqqq = 1\nlisten = "0.0.0.0:1"\ndrain_seconds = 1.5\nlog_level = "loud"\n'
            '[return_to]\nx = "ftp://y"\n',
            {"ZOOMGATE_LOG_LEVEL": "louder"},
        )
    text = "\n".join(error.value.problems)
    assert f"unknown setting lisen in {file}:1; did you mean listen?" in text
    assert f"unknown setting qqqq in {file}:2; remove it (" in text
    assert f"listen ({file}:3) is '0.0.0.0:1'" in text
    assert f"drain_seconds ({file}:4) must be" in text
    assert f"return_to ({file}:6) contains item 1, which is not" in text
    assert "ZOOMGATE_LOG_LEVEL must be one of debug, info, warning, error, not 'louder'" in text
    assert len(error.value.problems) == 6


@pytest.mark.parametrize("text", ["listen = ", "\x00", "a = 1\na = 2"])
def test_invalid_toml_is_rejected(tmp_path: Path, text: str) -> None:
    """The message names the setting and the file."""
    with pytest.raises(SettingsError, match=r"ZOOMGATE_CONFIG refers to .*z\.toml, which is not valid TOML"):
        load_file(tmp_path / "z.toml", text)


def test_missing_file_is_rejected(tmp_path: Path) -> None:
    assert "cannot be read" in problem({"ZOOMGATE_CONFIG": str(tmp_path / "none.toml")})


def test_velo_configuration_is_read(tmp_path: Path) -> None:
    """Client ID, redirect URI and client secret are read from the files of the Velo package."""
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
def test_json_files_in_other_formats_are_rejected(tmp_path: Path, text: str) -> None:
    """The message shows the expected format."""
    with pytest.raises(SettingsError, match=r'must contain \{"zoom": \{"clientId"'):
        load_file(tmp_path / "config.json", text)


def test_kubernetes_service_variables_are_ignored() -> None:
    """Kubernetes's variables for services named zoomgate and zoomgate-http are ignored; a port set by a user is rejected."""
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
        assert "unknown setting" in problem({f"{name}_PORT": port})


def test_unknown_variables_are_rejected() -> None:
    """The message suggests the setting with the most similar name."""
    assert problem({"ZOOMGATE_LISTN": "x"}) == "unknown setting ZOOMGATE_LISTN; did you mean ZOOMGATE_LISTEN?"
    for name in ("ZOOMGATE_QQQQQQ", "ZOOMGATE_TLS_CLIENT_CA"):
        assert problem({name: "x"}) == (
            f"unknown setting {name}; remove it (docs/configuration.md lists all settings)"
        )
    settings.load({"ZOOMGATE_SERVER": "x", "ZOOMGATE_KEY": "y"})


def test_allowed_origins_require_rpcs_over_http() -> None:
    environ = {"ZOOMGATE_ALLOWED_ORIGINS": "https://app.example.com"}
    assert problem(environ).startswith(
        "ZOOMGATE_ALLOWED_ORIGINS requires RPCs over HTTP; set ZOOMGATE_CONNECT_RPC to on"
    )
    assert settings.load(environ | {"ZOOMGATE_CONNECT_RPC": "on"}).allowed_origins


def test_webhook_secrets_are_read_newest_first_from_one_source(tmp_path: Path) -> None:
    """The environment takes precedence over the secrets directory; both are optional; an invalid secret is rejected."""

    def secrets(environ: dict[str, str]) -> list[str]:
        return [secret.reveal() for secret in settings.load(APP | environ).webhook_secret]

    directory = {"ZOOMGATE_SECRETS_DIR": str(tmp_path)}
    assert secrets({}) == []
    assert secrets(directory) == []
    (tmp_path / "zoom-webhook-secret-token").write_text("newer\nolder\n")
    assert secrets(directory) == ["newer", "older"]
    assert secrets(directory | {"ZOOMGATE_WEBHOOK_SECRET": "a b"}) == ["a", "b"]
    (tmp_path / "zoom-webhook-secret-token").write_text("\n")
    assert f"refers to a directory whose file {settings.WEBHOOK_SECRET} is empty" in problem(APP | directory)
    assert "cannot be read (File name too long)" in problem(APP | {"ZOOMGATE_SECRETS_DIR": "x" * 300})
    assert "copy it from Zoom again" in problem(APP | {"ZOOMGATE_WEBHOOK_SECRET": "hunter2é"})


def test_problem_names_what_the_user_specified(tmp_path: Path) -> None:
    """The name is that of the option, the variable or the key in the file whose value is used."""
    file = tmp_path / "z.toml"
    file.write_text('workers = 0\nlisten = "127.0.0.1:1"\n')
    config = {"ZOOMGATE_CONFIG": str(file)}
    rule = "must be an integer from 1 to 64, not '0'"
    assert problem(config) == f"workers ({file}:1) {rule}"
    assert problem(config | {"ZOOMGATE_WORKERS": "0"}) == f"ZOOMGATE_WORKERS {rule}"
    assert problem(config | {"ZOOMGATE_WORKERS": "1"}, {"workers": "0"}) == f"--workers {rule}"
    assert problem({}, {"listen": "0.0.0.0:1"}).startswith("--listen is '0.0.0.0:1'")
    assert problem({}, {"config": "none.toml"}).startswith("--config refers to none.toml")
    names = settings.load(config | {"ZOOMGATE_WORKERS": "1"}, {"data_dir": "data"}).names
    assert [names[name] for name in ("data_dir", "workers", "listen", "store")] == [
        "--data-dir",
        "ZOOMGATE_WORKERS",
        f"listen ({file}:2)",
        "ZOOMGATE_STORE",
    ]


@pytest.mark.parametrize(
    "store",
    [
        "mongo://u:hunter2@h/z",
        "postgres://u:hunter2@h",
        "sqlite:///",
        "z.db",
    ],
)
def test_unsupported_stores_are_rejected(store: str) -> None:
    """Only SQLite files and MongoDB databases are accepted, and the error does not contain the password of the URL."""
    text = problem({"ZOOMGATE_STORE": store})
    assert text.startswith("ZOOMGATE_STORE ")
    assert "hunter2" not in text


@pytest.mark.parametrize("name", ["ZOOMGATE_LISTEN", "ZOOMGATE_HTTP_LISTEN"])
@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:50051", "[::]:50051", ":50051", "192.0.2.1:50051", "no-such-host.invalid:1", "[fe80::1]:5"],
)
def test_listening_beyond_loopback_without_tls_is_rejected(name: str, address: str) -> None:
    text = problem({name: address})
    assert text.startswith(f"{name} is {address!r}")
    assert "127.0.0.1" in text


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:50051", "[::1]:0", "127.9.9.9:65535"])
def test_listening_on_loopback_is_accepted(address: str) -> None:
    """All spellings of loopback addresses and port 0 are accepted."""
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
        "local\x07host:1",
    ],
)
def test_address_requires_host_and_port(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        Address.parse(text)


@pytest.mark.parametrize("name", ["ZOOMGATE_LISTEN", "ZOOMGATE_HTTP_LISTEN"])
def test_url_as_listen_address_is_rejected(name: str) -> None:
    """The error message does not state that the port is in use."""
    text = problem({name: "http://localhost:1"})
    assert text == f"{name} must be HOST:PORT, not 'http://localhost:1'"


def test_client_secrets_are_read_newest_first_from_one_source(tmp_path: Path) -> None:
    """The environment, a file, or a directory provides one or more secrets; a combination of sources is rejected."""
    file = tmp_path / "secret"
    file.write_text("new\nold\n")
    from_file = {"ZOOMGATE_CLIENT_ID": "app", "ZOOMGATE_CLIENT_SECRET_FILE": str(file)}
    assert secrets_of(settings.load(from_file)) == ["new", "old"]
    assert secrets_of(settings.load(APP | {"ZOOMGATE_CLIENT_SECRET": "new old\n"})) == ["new", "old"]
    assert "cannot be combined" in problem(from_file | APP)


def test_client_id_and_secret_require_each_other(tmp_path: Path) -> None:
    """A missing client ID or secret is reported once; the Zoom simulator is not selected."""
    assert "ZOOMGATE_CLIENT_SECRET is required" in problem({"ZOOMGATE_CLIENT_ID": "app"})
    assert "ZOOMGATE_CLIENT_ID is required" in problem({"ZOOMGATE_CLIENT_SECRET": "hush"})
    assert "ZOOMGATE_CLIENT_SECRET is empty" in problem(APP | {"ZOOMGATE_CLIENT_SECRET": " "})
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "none"):
        texts = problems({"ZOOMGATE_CLIENT_ID": "app", "ZOOMGATE_CLIENT_SECRET_FILE": str(tmp_path / name)})
        assert [text.partition(" refers to")[0] for text in texts] == ["ZOOMGATE_CLIENT_SECRET_FILE"]


@pytest.mark.parametrize("client_id", ["a b", "a:b", "a\n", "ä", "x" * 129])
def test_malformed_client_id_is_rejected(client_id: str) -> None:
    """A client ID that Zoom cannot have issued is rejected at startup."""
    assert "ZOOMGATE_CLIENT_ID" in problem(APP | {"ZOOMGATE_CLIENT_ID": client_id})


def test_error_about_a_secret_does_not_contain_it() -> None:
    text = problem(APP | {"ZOOMGATE_CLIENT_SECRET": "hunter2é"})
    assert "ZOOMGATE_CLIENT_SECRET contains characters" in text
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
        "https://zoom.us/?",
        "https://zoom.us/#a",
        "https://zoom.us/#",
        "https://zoom.us:99999/",
        "https://zoom.us/ oauth",
        "https://zoom.us/\u202eoauth",
        "zoom.us",
    ],
)
def test_zoom_urls_require_https(name: str, url: str) -> None:
    """Unencrypted URLs, and URLs that are not plain base URLs, are rejected."""
    assert problem({name: url}).startswith(f"{name} ")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8090/v2", "http://localhost:1/v2", "http://[::1]:1/v2"])
def test_zoom_url_on_loopback_accepts_http(url: str) -> None:
    """The Zoom simulator does not use TLS; a trailing slash is ignored."""
    assert settings.load({"ZOOMGATE_ZOOM_API_URL": f"{url}/"}).zoom_api_url == url


@pytest.mark.parametrize(
    "url", ["http://site.example/cb", "https://site.example/cb#x", "https://site.example", "cb"]
)
def test_redirect_uri_must_be_a_full_https_url(url: str) -> None:
    assert problem({"ZOOMGATE_REDIRECT_URI": url}).startswith("ZOOMGATE_REDIRECT_URI must ")


def test_redirect_targets_are_validated(tmp_path: Path) -> None:
    """Redirect targets have a name and a safe URL."""
    good = {"ZOOMGATE_RETURN_TO": "a=https://a.example/x?y=1, b=http://127.0.0.1:3000/"}
    assert settings.load(good).return_to == {"a": "https://a.example/x?y=1", "b": "http://127.0.0.1:3000/"}
    for bad in ("https://a.example", "a=http://a.example/", "a=javascript:alert(1)", "=https://a.example/"):
        assert problem({"ZOOMGATE_RETURN_TO": bad}).startswith("ZOOMGATE_RETURN_TO contains")
    with pytest.raises(SettingsError, match="comma"):
        load_file(tmp_path / "z.toml", '[return_to]\na = "https://a.example/x,y=https://b.example/"\n')


def test_required_scopes_are_separated_by_commas_or_spaces() -> None:
    """A list can be pasted in either form; repeated scopes are ignored."""
    text = " meeting:write:meeting,user:read:user\n, meeting:read h323:read:admin user:read:user,"
    scopes = ("meeting:write:meeting", "user:read:user", "meeting:read", "h323:read:admin")
    assert settings.load({"ZOOMGATE_REQUIRED_SCOPES": text}).required_scopes == scopes
    assert settings.load({}).required_scopes == ()
    assert problem({"ZOOMGATE_REQUIRED_SCOPES": "meeting:read; user:read"}) == (
        "ZOOMGATE_REQUIRED_SCOPES must be names of scopes, separated by commas or spaces, not 'meeting:read; user:read'"
    )


def test_names_of_redirect_targets_are_unique() -> None:
    """A target would otherwise be replaced without notice."""
    text = problem({"ZOOMGATE_RETURN_TO": "a=https://a.example/, b=https://b.example/,a=https://c.example/"})
    assert text == (
        "ZOOMGATE_RETURN_TO contains item 3, which has the name of an earlier item; use each name once"
    )


@pytest.mark.parametrize("url", ["HTTPS://zoomgate.example.com", "hTTps://ZoomGate.Example.COM/"])
@pytest.mark.parametrize("uri", ["", "https://zoomgate.example.com", "https://ZOOMGATE.example.com"])
def test_case_of_the_public_url_is_ignored(url: str, uri: str) -> None:
    """Scheme and host are case-insensitive (RFC 3986, section 6.2.2.1). The redirect URI stays as registered with Zoom."""
    redirect = {"ZOOMGATE_REDIRECT_URI": f"{uri}/oauth/callback"} if uri else {}
    loaded = settings.load(BEHIND_A_PROXY | {"ZOOMGATE_PUBLIC_URL": url} | redirect)
    assert (loaded.public_url, loaded.has_https_pages) == ("https://zoomgate.example.com", True)
    assert loaded.redirect_uri == f"{uri or loaded.public_url}/oauth/callback"


@pytest.mark.parametrize(
    ("uri", "secure"),
    [
        ("HTTPS://a.example/oauth/callback", True),
        ("https://a.example/cb", True),
        ("http://127.0.0.1/cb", False),
    ],
)
def test_redirect_uri_determines_whether_browsers_use_https(uri: str, secure: bool) -> None:
    """This applies without a public URL."""
    assert settings.load({"ZOOMGATE_REDIRECT_URI": uri}).has_https_pages is secure


def test_case_of_the_zoom_host_is_ignored() -> None:
    """The records of an app are found with either spelling."""
    loaded = settings.load(
        {
            "ZOOMGATE_ZOOM_OAUTH_URL": "HTTPS://Zoom.US/oauth",
            "ZOOMGATE_ZOOM_API_URL": "https://API.zoom.us/v2",
        }
    )
    assert loaded.app == settings.load({}).app
    assert loaded.zoom_api_url == "https://api.zoom.us/v2"


@pytest.mark.parametrize(
    "url", ["http://shop.example/", "javascript:alert(1)", "shop.example", "https://u:p@shop.example/"]
)
def test_page_where_users_connect_must_be_a_web_page(url: str) -> None:
    """A query and a fragment are accepted, because the URL is only a link."""
    assert problem({"ZOOMGATE_CONNECT_URL": url}).startswith("ZOOMGATE_CONNECT_URL must ")
    good = "https://shop.example/app?a=b#/zoom"
    assert settings.load({"ZOOMGATE_CONNECT_URL": good}).connect_url == good


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ZOOMGATE_DRAIN_SECONDS", ["-1", "601", "1.5", "x", "6_0", " 6", "٦", "9" * 5000]),
        ("ZOOMGATE_STORE_WAIT", ["-1", "3601", "x"]),
        ("ZOOMGATE_MAX_REFRESHES_PER_HOUR", ["1", "1001"]),
        ("ZOOMGATE_MAX_CONCURRENT_REFRESHES", ["3", "10001"]),
        ("ZOOMGATE_MAX_CONCURRENT_EXCHANGES", ["0", "10001"]),
        ("ZOOMGATE_MAX_CONCURRENT_ZOOM_CALLS", ["0", "100001"]),
        ("ZOOMGATE_MAX_CONCURRENT_DOWNLOADS", ["0", "10001"]),
        ("ZOOMGATE_MAX_PENDING_PER_USER", ["0", "1001"]),
        ("ZOOMGATE_MAX_PENDING_PER_CALLER", ["0", "100001"]),
        ("ZOOMGATE_FORCED_REFRESH_SECONDS", ["3601"]),
        ("ZOOMGATE_DEFAULT_DURATION_MINUTES", ["0", "1441"]),
        ("ZOOMGATE_DEFAULT_TIMEZONE", ["Mars/Olympus", "../../etc/passwd", "Factory", "localtime"]),
        ("ZOOMGATE_DEFAULT_TOPIC", ["x" * 201, "a\nb", "a\u202eb"]),
        ("ZOOMGATE_LOG_LEVEL", ["INFO", "loud"]),
        ("ZOOMGATE_LOG_FORMAT", ["xml"]),
        ("ZOOMGATE_AUDIT", ["off", "stdout", "-"]),
        ("ZOOMGATE_AUDIT_REQUIRED", ["true", "no"]),
        ("ZOOMGATE_REFLECTION", ["true", "yes"]),
        ("ZOOMGATE_MAX_RESPONSE_BYTES", ["65535", "30000001", "3.5M"]),
        (
            "ZOOMGATE_DOWNLOAD_HOSTS",
            [
                "*",
                "*.com",
                "com",
                "https://zoom.us",
                "zoom.us:443",
                "zoom.us/x",
                "Zoom.us",
                "a*.zoom.us",
                "10.0.0.1",
                "zoom.us.",
            ],
        ),
        (
            "ZOOMGATE_ZOOM_API_HOSTS",
            [
                "zoom.us",
                "evil.example",
                "api.zoom.us.evil.example",
                "evilzoom.us",
                "https://api-eu.zoom.us",
                "a@b.zoom.us",
            ],
        ),
    ],
)
def test_values_outside_their_range_are_rejected(name: str, wrong: list[str]) -> None:
    """The message names the setting; no value is silently clamped."""
    for value in wrong:
        assert problem({name: value}).startswith(f"{name} ")


def test_all_problems_are_reported_together() -> None:
    texts = problems(
        {
            "ZOOMGATE_LISTN": "x",
            "ZOOMGATE_LISTEN": "0.0.0.0:1",
            "ZOOMGATE_STORE": "postgres://h/z",
            "ZOOMGATE_CLIENT_ID": "app",
            "ZOOMGATE_DRAIN_SECONDS": "x",
        },
        {"log_level": "loud"},
    )
    assert len(texts) == 6
    assert all("\n" not in text for text in texts)


def test_all_invalid_items_of_a_list_are_reported_together() -> None:
    """Problems that follow only from the rejection of a setting are not reported."""
    texts = problems(
        {
            "ZOOMGATE_RETURN_TO": "a=b, b=https://b.example/, c=http://c.example/",
            "ZOOMGATE_TRUSTED_PROXIES": "0.0.0.0/0, 10.0.0.7, proxy",
            "ZOOMGATE_HTTP_LISTEN": "0.0.0.0:8080",
            "ZOOMGATE_PUBLIC_URL": "https://zoomgate.example.com",
        }
    )
    assert [text.partition(", which")[0] for text in texts] == [
        "ZOOMGATE_RETURN_TO contains item 1",
        "ZOOMGATE_RETURN_TO contains item 3",
        "ZOOMGATE_TRUSTED_PROXIES contains item 1",
        "ZOOMGATE_TRUSTED_PROXIES contains item 3",
    ]


def test_store_url_may_end_with_a_line_break() -> None:
    """A variable often has the content of a file, as in a Secret of Kubernetes."""
    loaded = settings.load({"ZOOMGATE_STORE": "mongodb://db1,db2/zoomgate\n"})
    assert isinstance(loaded.store, Secret)
    assert loaded.store.reveal() == "mongodb://db1,db2/zoomgate"


@pytest.mark.parametrize(
    "rejected", ["ZOOMGATE_PUBLIC_URL", "ZOOMGATE_TRUSTED_PROXIES", "ZOOMGATE_HTTP_LISTEN"]
)
def test_rejected_value_causes_no_problem_of_the_listener(rejected: str) -> None:
    environ = BEHIND_A_PROXY | {"ZOOMGATE_HTTP_LISTEN": "0.0.0.0:8080", rejected: "x y"}
    assert problem(environ).startswith(rejected)


BEHIND_A_PROXY = {
    "ZOOMGATE_PUBLIC_URL": "https://zoomgate.example.com",
    "ZOOMGATE_TRUSTED_PROXIES": "10.0.0.7, fd00::/64",
}


def test_listening_beyond_loopback_is_accepted_with_tls_and_proxies() -> None:
    """The gRPC server requires TLS; the HTTP server requires proxies and an https public URL, which determines the redirect URI."""
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
            {"ZOOMGATE_HTTP_LISTEN": "0.0.0.0:1", "ZOOMGATE_TRUSTED_PROXIES": ","},
            "ZOOMGATE_HTTP_LISTEN",
            "TRUSTED_PROXIES",
        ),
        (
            {"ZOOMGATE_HTTP_LISTEN": "0.0.0.0:1", "ZOOMGATE_PUBLIC_URL": "http://127.0.0.1:1"},
            "ZOOMGATE_HTTP_LISTEN",
            "https",
        ),
        ({"ZOOMGATE_PUBLIC_URL": "http://zoomgate.example.com"}, "ZOOMGATE_PUBLIC_URL", "must use https"),
        ({"ZOOMGATE_PUBLIC_URL": "zoomgate.example.com"}, "ZOOMGATE_PUBLIC_URL", "such as https://"),
        ({"ZOOMGATE_PUBLIC_URL": "https://x.example/path"}, "ZOOMGATE_PUBLIC_URL", "such as https://"),
        ({"ZOOMGATE_PUBLIC_URL": "https://x.example/?"}, "ZOOMGATE_PUBLIC_URL", "such as https://"),
        ({"ZOOMGATE_PUBLIC_URL": "https://x.example#"}, "ZOOMGATE_PUBLIC_URL", "such as https://"),
        ({"ZOOMGATE_PUBLIC_URL": "https://u:p@x.example"}, "ZOOMGATE_PUBLIC_URL", "such as https://"),
        ({"ZOOMGATE_TRUSTED_PROXIES": "proxy.example"}, "ZOOMGATE_TRUSTED_PROXIES", "use IP addresses"),
        ({"ZOOMGATE_TRUSTED_PROXIES": "10.0.0.1/8"}, "ZOOMGATE_TRUSTED_PROXIES", "use IP addresses"),
        ({"ZOOMGATE_TRUSTED_PROXIES": "0.0.0.0/0"}, "ZOOMGATE_TRUSTED_PROXIES", "covers all addresses"),
        (
            {"ZOOMGATE_REDIRECT_URI": "https://other.example/oauth/callback"},
            "ZOOMGATE_REDIRECT_URI",
            "https://zoomgate.example.com/oauth/callback",
        ),
    ],
)
def test_inconsistent_network_settings_are_rejected(changed: dict[str, str], name: str, text: str) -> None:
    """The message names the setting and a valid alternative."""
    message = problem(BEHIND_A_PROXY | changed)
    assert message.startswith(name)
    assert text in message


@pytest.mark.parametrize(
    ("name", "value"),
    [("NAME", " "), ("NAME", "x" * 61), ("COLOR", "red"), ("COLOR", "#fff"), ("COLOR", "#0b5cff;}")],
)
def test_invalid_brand_is_rejected(name: str, value: str) -> None:
    """The message states which values are valid, and contains the rejected value."""
    message = problem({f"ZOOMGATE_BRAND_{name}": value})
    assert message.startswith(f"ZOOMGATE_BRAND_{name} must")
    assert message.endswith(f", not {value!r}")


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 100_000, "0x" + "f" * 100_000, "{a=" * 100_000])
def test_settings_file_with_an_extreme_value_is_rejected(tmp_path: Path, value: str) -> None:
    file = tmp_path / "zoomgate.toml"
    file.write_text(f"workers = {value}\n")
    assert problem({"ZOOMGATE_CONFIG": str(file)}).endswith(
        "a number that is too long, or is nested too deeply"
    )


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "environ", [{"CONFIG": "pipe"}, {"CLIENT_SECRET_FILE": "pipe"}, {"SECRETS_DIR": "."}]
)
def test_pipe_in_place_of_a_file_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    """A pipe without a writer is not waited for."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.mkfifo(settings.VELO_SECRET)
    given = {"ZOOMGATE_CLIENT_ID": "app"} | {f"ZOOMGATE_{name}": value for name, value in environ.items()}
    assert any("cannot be read (not a regular file)" in text for text in problems(given))


@pytest.mark.parametrize(
    ("origin", "sent"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.com/", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("https://app.example.com:8443", "https://app.example.com:8443"),
        ("http://localhost:80", "http://localhost"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_origins_have_the_form_in_which_browsers_send_them(origin: str, sent: str) -> None:
    environ = {"ZOOMGATE_ALLOWED_ORIGINS": f"{origin}, https://b.example", "ZOOMGATE_CONNECT_RPC": "on"}
    assert settings.load(environ).allowed_origins == (sent, "https://b.example")


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "app.example.com",
        "https://*.example.com",
        "https://app.example.com/page",
        "https://app.example.com?",
        "https://user@app.example.com",
        "http://app.example.com",
        "ftp://app.example.com",
        "https://app.example.com:",
        "https://app.example.com:/",
        "https://app.example.com:0443",
        "https://app.example.com:0",
        "https://app.example.com:65536",
        "http://[::1]:",
    ],
)
def test_origin_that_matches_no_page_or_is_not_secure_is_rejected(origin: str) -> None:
    assert problem({"ZOOMGATE_ALLOWED_ORIGINS": origin}).startswith(
        "ZOOMGATE_ALLOWED_ORIGINS contains item 1"
    )
