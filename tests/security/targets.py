"""What is no target of the proxy: paths, addresses and queries."""

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

NO_PATHS = {
    "nothing": "",
    "a slash alone": "/",
    "another host": "https://evil.com/",
    "another host without a scheme": "//evil.com/x",
    "three slashes": "///evil.com",
    "a backslash for the second slash": "/\\evil.com",
    "two backslashes": "\\\\evil.com",
    "the metadata service of a cloud": "http://169.254.169.254/latest/meta-data",
    "the loopback address": "http://127.0.0.1/v2/users/me",
    "a user part that glues onto the base": "@evil.com/",
    "Zoom's host as a user part": "//api.zoom.us@evil.com/",
    "a user part in a full address": "https://api.zoom.us@evil.com/v2/users/me",
    "credentials in a full address": "https://u:p@api.zoom.us/v2/users/me",
    "a domain that glues onto the base": ".evil.com/",
    "a port that glues onto the base": ":80/",
    "no slash in front": "users/me",
    "Zoom's host as a prefix of another": "https://api.zoom.us.evil.com/v2/users/me",
    "Zoom's host on its own port": "https://api.zoom.us:443/v2/users/me",
    "Zoom's host in upper case": "HTTPS://API.ZOOM.US/v2/users/me",
    "Zoom's host over plain http": "http://api.zoom.us/v2/users/me",
    "Zoom's host with a trailing dot": "https://api.zoom.us./v2/users/me",
    "a path of Zoom's beside the API": "https://api.zoom.us/oauth/token",
    "a path that begins like the API's": "https://api.zoom.us/v2x/users/me",
    "a file": "file:///etc/passwd",
    "dots out of the API": "/../../oauth/token",
    "dots out of a full address": "https://api.zoom.us/v2/../oauth/token",
    "escaped dots": "/%2e%2e/%2e%2e/oauth/token",
    "half escaped dots": "/.%2E/oauth/token",
    "escaped slashes behind dots": "/..%2f..%2foauth/token",
    "dots escaped twice": "/%252e%252e/x",
    "dots escaped three times": "/%25252e%25252e/x",
    "dots with a parameter": "/users/..;/oauth",
    "dots with an escaped parameter": "/users/..%3bx=y/oauth",
    "overlong UTF-8 for dots": "/%C0%AE%C0%AE/x",
    "dots at the end": "/users/..",
    "a dot segment": "/./users",
    "an empty segment": "/users//me",
    "a fragment": "/users/me#frag",
    "an empty fragment": "/users/me#",
    "a line break that smuggles a header": "/users/me\r\nX: y",
    "a request behind the request": "/users/me HTTP/1.1\r\nHost: evil.com\r\n\r\nGET /x",
    "a tab": "/users/\tme",
    "a space": "/users/ me",
    "an escaped line break": "/users/me%0d%0aX",
    "a zero": "/users/\x00me",
    "an escaped zero": "/users/%00",
    "an escaped delete": "/users/%7f",
    "full-width slashes": "／／evil.com",
    "a full-width slash inside": "/users／me",
    "an escaped full-width slash": "/users/%EF%BC%8Fme",
    "a line separator": "/users/\u2028me",
    "a change of direction": "/users/\u202eme",
    "ideographic full stops": "/users。。/me",
    "a Cyrillic letter": "/users/m\u0435",
    "a Kelvin sign": "/users/\u212a",
    "a percent sign alone": "/users/%",
    "a percent sign without hex digits": "/users/%zz",
    "an escape in full-width digits": "/users/%２５",
    "more characters than a path may have": "/" + "a" * 2048,
    "more segments than a path may have": "/a" * 65,
    "megabytes": "/" + "a" * 2_000_000,
    "an escaped slash": "/users/%2fme",
    "an escaped backslash": "/users/%5cme",
    "a slash escaped twice that is no meeting's": "/users%252Fme",
    "a meeting's identifier that is escaped once": "/past_meetings/%2Fabc%3D%3D",
    "a meeting's identifier that is escaped three times": "/past_meetings/%25252Fabc%25253D",
    "dots behind a meeting's identifier": "/past_meetings/%252F..%252Foauth",
    "a token in the query": "/users/me?access_token=x",
    "a token in the query, half escaped": "/users/me?%61ccess_token=x",
    "a token behind a semicolon": "/users/me?a=b;api_key=x",
    "an escaped line break in the query": "/users/me?a=%0d%0a",
    "a control character in the query": "/users/me?a=\x01",
    "a space in the query": "/users/me?a=b c",
    "a query that is too long": "/users/me?" + "a" * 8193,
    "a bad escape in the query": "/users/me?a=%g1",
    "a fragment behind the query": "/users/me?a=b#c",
}

DENIED = {
    "the token endpoint": "/oauth/token",
    "the OAuth endpoints in upper case": "/OAUTH/revoke",
    "the OAuth endpoints, escaped": "/%6fauth/token",
    "the OAuth endpoints with a parameter": "/oauth;x=1/token",
    "the OAuth endpoints behind an escaped slash": "/%252Foauth%252Ftoken",
}


def call(method: str, url: str, **more: object) -> pb.GetRequest:
    """A request of one of the proxy's methods."""
    return ParseDict({"user_email": MONICA, "url": url, **more}, REQUESTS[method]())


def parameters(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in pairs]


ROWS = [
    *(
        Row(name, "ProxyService.Get", call("Get", url), fields("url"), "INVALID_PATH")
        for name, url in NO_PATHS.items()
    ),
    *(
        Row(f"another host, {method}", f"ProxyService.{method}", request, fields("url"), "INVALID_PATH")
        for method, request in ((method, call(method, "//evil.com/x")) for method in REQUESTS)
    ),
    *(
        Row(name, "ProxyService.Get", call("Get", url), fields(), "CALLER_NOT_ALLOWED", "PERMISSION_DENIED")
        for name, url in DENIED.items()
    ),
    *(
        Row(
            f"a path that the caller's row does not name, {url}",
            "ProxyService.Get",
            pb.GetRequest(user_email=OMAR, url=url),
            fields(),
            "CALLER_NOT_ALLOWED",
            "PERMISSION_DENIED",
            "narrow",
        )
        for url in ("/users/me;x", "/users/me/", "/users/me/settings", "/users/ME")
    ),
    Row(
        "too many parameters",
        "ProxyService.Get",
        call("Get", "/users/me", query=parameters(*[("a", "b")] * 101)),
        fields("query"),
    ),
    Row(
        "too many parameters, url and query together",
        "ProxyService.Get",
        call("Get", "/users/me?" + "a&" * 50 + "a", query=parameters(*[("a", "b")] * 50)),
        fields("query"),
    ),
    Row(
        "a query that is too long once it is escaped",
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
