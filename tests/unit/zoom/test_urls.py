"""Tests for the validation and encoding of targets."""

from urllib.parse import quote

import pytest

from zoomgate_server.errors import CallerNotAllowed, InvalidPath, InvalidRequest
from zoomgate_server.zoom import urls
from zoomgate_server.zoom.request import Target

REGIONAL_URLS = (urls.ZOOM_API_URL, "https://api-eu.zoom.us/v2")
LOCAL_URLS = (urls.ZOOM_API_URL, "http://127.0.0.1:8090/v2")


@pytest.mark.parametrize(
    ("url", "base_urls", "path"),
    [
        ("/users/me", LOCAL_URLS, "/users/me"),
        ("/v2/users/me", LOCAL_URLS, "/users/me"),
        ("/v2x", LOCAL_URLS, "/v2x"),
        ("https://api.zoom.us/v2/users/me", LOCAL_URLS, "/users/me"),
        ("HTTPS://API.zoom.us/v2/users/Me", LOCAL_URLS, "/users/Me"),
        ("https://api.zoom.us/v2/v2/users/me", LOCAL_URLS, "/users/me"),
        ("http://127.0.0.1:8090/v2/users/me", LOCAL_URLS, "/users/me"),
        ("https://api-eu.zoom.us/v2/users/me", REGIONAL_URLS, "/users/me"),
        ("https://api.zoom.us/v2/users/", LOCAL_URLS, "/users/"),
        ("/users/a%40example.com", LOCAL_URLS, "/users/a%40example.com"),
    ],
)
def test_paths_and_full_urls_are_accepted(url: str, base_urls: tuple[str, ...], path: str) -> None:
    """The base URLs and the API's version are equivalent to no prefix; the path is not changed."""
    assert urls.parse_target(url, base_urls=base_urls) == Target(path)


@pytest.mark.parametrize(
    ("uuid", "sent"),
    [
        ("4444AAAiAAAAiAiAiiAiii==", "4444AAAiAAAAiAiAiiAiii%3D%3D"),
        ("4444+AAiAAAAiAiAiiAiii==", "4444%2BAAiAAAAiAiAiiAiii%3D%3D"),
        ("4444AAAiA/AAiAiAiiAiii==", "4444AAAiA%2FAAiAiAiiAiii%3D%3D"),
        ("4444AAAiA/AAiAiAiiAii/==", "4444AAAiA%2FAAiAiAiiAii%2F%3D%3D"),
        ("/444AAAiAAAAiAiAiiAiii==", "%252F444AAAiAAAAiAiAiiAiii%253D%253D"),
        ("4444AAAiA//AiAiAiiAiii==", "4444AAAiA%252F%252FAiAiAiiAiii%253D%253D"),
        ("//44AAAiA/AAiAiAiiAiii==", "%252F%252F44AAAiA%252FAAiAiAiiAiii%253D%253D"),
        ("/abc/def=", "%252Fabc%252Fdef%253D"),
    ],
)
@pytest.mark.parametrize(
    "path", ["/past_meetings/{}", "/v2/report/meetings/{}/participants", "/metrics/webinars/{}/qos"]
)
def test_uuid_is_sent_in_the_encoding_that_zoom_requires(path: str, uuid: str, sent: str) -> None:
    """The caller may encode a UUID once, twice, only in part, or not at all."""
    once = quote(uuid, safe="")
    for given in (uuid, once, once.replace("%2F", "%2f"), quote(once, safe=""), uuid.replace("/", "%252F")):
        target = urls.parse_target(path.format(given))
        assert target.path == path.format(sent).removeprefix("/v2")


def test_slash_after_a_meeting_id_is_not_part_of_a_uuid() -> None:
    target = urls.parse_target("/meetings/81234567890/polls/abcd==")
    assert target == Target("/meetings/81234567890/polls/abcd%3D%3D")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8090/v2/users/me",
        "http://127.0.0.1:8091/v2/users/me",
        "http://api.zoom.us/v2/users/me",
        "https://api.zoom.us/v2",
        "https://api.zoom.us/v2x/users",
        "https://u:p@api.zoom.us/v2/users",
        "https://api-eu.zoom.us/v2/users",
        "/v2",
        "/v2/",
    ],
)
def test_other_urls_are_rejected(url: str) -> None:
    """A full URL must have exactly the pinned scheme, host, port, and base path."""
    with pytest.raises(InvalidPath):
        urls.parse_target(url)


@pytest.mark.parametrize(
    "url",
    [
        "/past_meetings/a%2Fb",
        "/users%252Fme",
        "/past_meetings/a%2Fb%3D%3D%3D",
        "/past_meetings/a/..%2Fb%3D%3D",
        "/past_meetings//a..b==",
        "/users//a/b==",
        "/past_meetings/4444AAAiA%25252FAAiAiAiiAiii%25253D%25253D",
        "/past_meetings/%252F..%252Foauth",
        "/past_meetings/%252F%252e%252e",
        "/past_meetings/%252F%2500",
        "/users/%5c",
        "/users/%255c",
        "/users/%252e%252e%253bx",
        "/users/%25%32%65",
        "/users/%C0%AE%C0%AE",
        "/users/%EF%BC%8F",
        "/users/%7f",
    ],
)
def test_misleading_escapes_are_rejected(url: str) -> None:
    """A segment stays a single segment at any level of decoding, except a meeting UUID."""
    with pytest.raises(InvalidPath):
        urls.parse_target(url)


@pytest.mark.parametrize(
    "url",
    [
        "/oauth",
        "/oauth/token",
        "/OAuth/token",
        "/%6Fauth",
        "/oauth;x=1/token",
        "/v2/oauth/token",
        "/%252Foauth%252Ftoken%3D",
    ],
)
def test_oauth_paths_are_denied_in_all_spellings(url: str) -> None:
    """Paths that a server could interpret as paths below /oauth are not forwarded."""
    with pytest.raises(CallerNotAllowed):
        urls.parse_target(url)


def test_limits_are_inclusive() -> None:
    """Exactly 2048 characters, 64 segments, 100 parameters and 8192 query characters are accepted, larger values are rejected."""
    urls.parse_target("/" + "a" * (urls.MAX_PATH - 1))
    urls.parse_target("/a" * urls.MAX_SEGMENTS)
    urls.parse_target("/x?" + "a=b&" * 49 + "a=b", [("a", "b")] * 50)
    urls.parse_target("/x?a=" + "b" * (urls.MAX_QUERY - 2))
    for url in (
        "/" + "a" * urls.MAX_PATH,
        "/a" * (urls.MAX_SEGMENTS + 1),
        "/x?a=" + "b" * (urls.MAX_QUERY - 1),
    ):
        with pytest.raises(InvalidPath):
            urls.parse_target(url)
    for query in ([("a", "b")] * 51, [("a", "ü" * 1400)]):
        with pytest.raises(InvalidRequest) as rejected:
            urls.parse_target("/x?" + "a=b&" * 49 + "a=b", query)
        assert [violation.field for violation in rejected.value.violations] == ["query"]


def test_non_ascii_characters_in_a_query_are_named() -> None:
    with pytest.raises(InvalidPath, match="an unescaped reserved or non-ASCII character"):
        urls.parse_target("/users/me?name=Ünal")


@pytest.mark.parametrize(
    "name", ["access_token", "ACCESS_TOKEN", "api_key", "%61ccess_token", "%2561ccess_token"]
)
@pytest.mark.parametrize("before", ["", "a=1&", "a=1;"])
def test_credentials_in_a_query_are_rejected(before: str, name: str) -> None:
    """A token parameter is rejected regardless of separators and escapes."""
    with pytest.raises(InvalidPath):
        urls.parse_target(f"/users/me?{before}{name}=x")


def test_parameters_are_encoded() -> None:
    """A value cannot end the parameter, start a new parameter, or become a fragment."""
    assert (
        urls.parse_target("/x?a=b", [("c", "&d=e#f;g h/ü%")]).query
        == "a=b&c=%26d%3De%23f%3Bg%20h%2F%C3%BC%25"
    )


def test_all_violations_are_reported_together() -> None:
    with pytest.raises(InvalidPath) as rejected:
        urls.parse_target("users#x", [("", ""), ("a", "\n")])
    assert [violation.field for violation in rejected.value.violations] == [
        "url",
        "url",
        "query[0].name",
        "query[1].value",
    ]


@pytest.mark.parametrize("text", ["/" + "a" * 62, "/a b", "/a%2Fb", "/../x", "/a\n", "/ä", "/a?b", "/a;b"])
def test_only_uuids_may_be_encoded_twice(text: str) -> None:
    """A UUID has at most 62 characters of the Base64 alphabet, and padding."""
    encoded = quote(quote(text, safe=""), safe="")
    for padding in ("", "%253D%253D"):
        with pytest.raises(InvalidPath):
            urls.parse_target(f"/past_meetings/{encoded}{padding}")


@pytest.mark.parametrize(
    ("pattern", "path", "allowed"),
    [
        ("/**", "/anything/at/all", True),
        ("/users/me/**", "/users/me", True),
        ("/users/me/**", "/users/me/meetings/1", True),
        ("/users/me/**", "/users/mean", False),
        ("/users/*", "/users/x", True),
        ("/users/*", "/users/x/y", False),
        ("/users/*", "/users/", False),
        ("/users/*", "/users/;x", False),
        ("/users/*", "/users/%3Bx", False),
        ("/users/*", "/users/%20", False),
        ("/users/*", "/users/x;y", True),
        ("/users/*/meetings", "/users/;x/meetings", False),
        ("/past_meetings/*", "/past_meetings/a%2Fb%3D%3D", True),
        ("/past_meetings/*", "/past_meetings/%252Fb%253D%253D", True),
        ("/past_meetings/*/*", "/past_meetings/a%2Fb%3D%3D", False),
        ("/users/*/meetings", "/users/x/meetings", True),
        ("/users/.*", "/users/xx", False),
        ("/users/m[e]", "/users/me", False),
        ("/users/me", "/users/%6de", True),
        ("/users/me", "/users/me;x", False),
        ("/users/me", "/users/me/", False),
        ("/users/a@b.c", "/users/a%40b.c", True),
    ],
)
def test_patterns_match_by_segments(pattern: str, path: str, allowed: bool) -> None:
    """A pattern is not a regular expression, and escapes do not bypass it."""
    assert urls.proxy_path_allowed([pattern], path) is allowed
