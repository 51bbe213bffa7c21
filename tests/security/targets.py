"""Paths, URLs and queries that the proxy rejects."""

from google.protobuf.json_format import ParseDict

from security.row import Row, fields
from support.harness import MONICA, OMAR
from zoomgate.v1 import proxy_service_pb2 as pb

REQUESTS = {
    "Get": pb.GetRequest,
    "Delete": pb.DeleteRequest,
    "Post": pb.PostRequest,
    "Patch": pb.PatchRequest,
    "Put": pb.PutRequest,
}

INVALID_PATHS = {
    "an empty path": "",
    "only a slash": "/",
    "a different host": "https://evil.com/",
    "a different host without a scheme": "//evil.com/x",
    "three slashes": "///evil.com",
    "a backslash for the second slash": "/\\evil.com",
    "two backslashes": "\\\\evil.com",
    "the metadata service of a cloud": "http://169.254.169.254/latest/meta-data",
    "the loopback address": "http://127.0.0.1/v2/users/me",
    "a userinfo part that would extend the base URL": "@evil.com/",
    "Zoom's host as userinfo": "//api.zoom.us@evil.com/",
    "userinfo in a full URL": "https://api.zoom.us@evil.com/v2/users/me",
    "credentials in a full URL": "https://u:p@api.zoom.us/v2/users/me",
    "a domain that would extend the base URL": ".evil.com/",
    "a port that would extend the base URL": ":80/",
    "no leading slash": "users/me",
    "Zoom's host as a prefix of a different host": "https://api.zoom.us.evil.com/v2/users/me",
    "Zoom's host with an explicit port": "https://api.zoom.us:443/v2/users/me",
    "another host in upper case": "HTTPS://API.ZOOM.US.EVIL.COM/v2/users/me",
    "Zoom's host over plain http": "http://api.zoom.us/v2/users/me",
    "Zoom's host with a trailing dot": "https://api.zoom.us./v2/users/me",
    "a path of Zoom's host outside the API": "https://api.zoom.us/oauth/token",
    "a path with the API's path as a prefix": "https://api.zoom.us/v2x/users/me",
    "a file": "file:///etc/passwd",
    "dot segments that leave the API": "/../../oauth/token",
    "dot segments in a full URL that leave the API": "https://api.zoom.us/v2/../oauth/token",
    "escaped dot segments": "/%2e%2e/%2e%2e/oauth/token",
    "partly escaped dot segments": "/.%2E/oauth/token",
    "dot segments with escaped slashes": "/..%2f..%2foauth/token",
    "dot segments escaped twice": "/%252e%252e/x",
    "dot segments escaped three times": "/%25252e%25252e/x",
    "dot segments with a parameter": "/users/..;/oauth",
    "dot segments with an escaped parameter": "/users/..%3bx=y/oauth",
    "dot segments in overlong UTF-8": "/%C0%AE%C0%AE/x",
    "a trailing dot segment": "/users/..",
    "a single-dot segment": "/./users",
    "an empty segment": "/users//me",
    "a fragment": "/users/me#frag",
    "an empty fragment": "/users/me#",
    "a line break and a header": "/users/me\r\nX: y",
    "a second request": "/users/me HTTP/1.1\r\nHost: evil.com\r\n\r\nGET /x",
    "a tab": "/users/\tme",
    "a space": "/users/ me",
    "an escaped line break": "/users/me%0d%0aX",
    "a NUL": "/users/\x00me",
    "an escaped NUL": "/users/%00",
    "an escaped DEL": "/users/%7f",
    "full-width slashes": "／／evil.com",
    "a full-width slash in a segment": "/users／me",
    "an escaped full-width slash": "/users/%EF%BC%8Fme",
    "a line separator": "/users/\u2028me",
    "a bidi override": "/users/\u202eme",
    "ideographic full stops": "/users。。/me",
    "a Cyrillic letter": "/users/m\u0435",
    "a Kelvin sign": "/users/\u212a",
    "a lone percent sign": "/users/%",
    "a percent sign without hex digits": "/users/%zz",
    "an escape in full-width digits": "/users/%２５",
    "an overlong path": "/" + "a" * 2048,
    "too many segments": "/a" * 65,
    "a path of 2 MB": "/" + "a" * 2_000_000,
    "an escaped slash": "/users/%2fme",
    "an escaped backslash": "/users/%5cme",
    "a slash escaped twice outside a meeting UUID": "/users%252Fme",
    "an unpadded meeting UUID escaped once": "/past_meetings/%2Fabc",
    "a meeting UUID with too much padding": "/past_meetings/%2Fabc%3D%3D%3D",
    "a meeting UUID with a parameter": "/past_meetings/a%2Fb%3D%3D%3Bx",
    "dot segments before a meeting UUID": "/past_meetings/../abc==",
    "dot segments in a meeting UUID": "/past_meetings//../users/me==",
    "an unescaped UUID outside meetings": "/users//abc==",
    "only the version of the API": "/v2/",
    "dot segments after the version of the API": "/v2/../oauth/token",
    "a regional host of a different domain": "https://api-eu.zoom.us.evil.com/v2/users/me",
    "a host of Zoom that the settings do not name": "https://acme.zoom.us/v2/users/me",
    "a regional host over plain http": "http://api-eu.zoom.us/v2/users/me",
    "the OAuth endpoints of a regional host": "https://api-eu.zoom.us/oauth/token",
    "an unpadded UUID that starts with an OAuth path": "/%252Foauth%252Ftoken",
    "a meeting UUID escaped three times": "/past_meetings/%25252Fabc%25253D",
    "dot segments after a meeting UUID": "/past_meetings/%252F..%252Foauth",
    "a token in the query": "/users/me?access_token=x",
    "a partly escaped token in the query": "/users/me?%61ccess_token=x",
    "a token after a semicolon": "/users/me?a=b;api_key=x",
    "an escaped line break in the query": "/users/me?a=%0d%0a",
    "a control character in the query": "/users/me?a=\x01",
    "a space in the query": "/users/me?a=b c",
    "an overlong query": "/users/me?" + "a" * 8193,
    "an invalid escape in the query": "/users/me?a=%g1",
    "a fragment after the query": "/users/me?a=b#c",
}

DENIED = {
    "the token endpoint": "/oauth/token",
    "the OAuth endpoints in upper case": "/OAUTH/revoke",
    "the OAuth endpoints, escaped": "/%6fauth/token",
    "the OAuth endpoints with a parameter": "/oauth;x=1/token",
    "the OAuth endpoints after an escaped slash": "/%252Foauth%252Ftoken%253D",
    "the OAuth endpoints after the version of the API": "/v2/oauth/token",
}


def call(method: str, url: str, **more: object) -> pb.GetRequest:
    """Return a request for one of the proxy's methods."""
    return ParseDict({"user_email": MONICA, "url": url, **more}, REQUESTS[method]())


def parameters(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in pairs]


ROWS = [
    *(
        Row(name, "ProxyService.Get", call("Get", url), fields("url"), "INVALID_PATH")
        for name, url in INVALID_PATHS.items()
    ),
    *(
        Row(f"a different host, {method}", f"ProxyService.{method}", request, fields("url"), "INVALID_PATH")
        for method, request in ((method, call(method, "//evil.com/x")) for method in REQUESTS)
    ),
    *(
        Row(name, "ProxyService.Get", call("Get", url), fields(), "CALLER_NOT_ALLOWED", "PERMISSION_DENIED")
        for name, url in DENIED.items()
    ),
    *(
        Row(
            f"a path that the caller's policy does not allow, {url}",
            "ProxyService.Get",
            pb.GetRequest(user_email=OMAR, url=url),
            fields(),
            "CALLER_NOT_ALLOWED",
            "PERMISSION_DENIED",
            "narrow",
        )
        for url in (
            "/users/me;x",
            "/users/me/",
            "/users/me/settings",
            "/users/ME",
            "/v2/users/",
            "/users/me%2Fsettings%3D",
        )
    ),
    Row(
        "too many parameters",
        "ProxyService.Get",
        call("Get", "/users/me", query=parameters(*[("a", "b")] * 101)),
        fields("query"),
    ),
    Row(
        "too many parameters in url and query combined",
        "ProxyService.Get",
        call("Get", "/users/me?" + "a&" * 50 + "a", query=parameters(*[("a", "b")] * 50)),
        fields("query"),
    ),
    Row(
        "a query that is too long when escaped",
        "ProxyService.Get",
        call("Get", "/users/me", query=parameters(("a", "ü" * 1400))),
        fields("query"),
    ),
    Row(
        "parameters without a name, with secrets, control characters and megabytes",
        "ProxyService.Get",
        call(
            "Get",
            "/users/me",
            query=parameters(
                ("", ""),
                ("Access_Token", "x"),
                (" api_key ", "x"),
                ("access_to\u212aen", "x"),
                ("a\nb", "\x00"),
                ("n" * 129, "x" * 1_000_000),
            ),
        ),
        fields(
            "query[0].name",
            "query[1].name",
            "query[2].name",
            "query[3].name",
            "query[4].name",
            "query[4].value",
            "query[5].name",
            "query[5].value",
        ),
    ),
]
