"""URLs and positions of files that Download rejects."""

from security.row import Row, fields
from support.harness import MONICA, OMAR
from zoomgate.v1 import proxy_service_pb2 as pb

INVALID_URLS = {
    "another host": "https://evil.com/rec/download/x",
    "a similar host": "https://evilzoom.us/x",
    "Zoom's host as a label": "https://zoom.us.evil.com/x",
    "Zoom's host as a user": "https://zoom.us@evil.com/x",
    "a user on Zoom's host": "https://user@zoom.us/x",
    "a trailing dot": "https://zoom.us./x",
    "upper case and another host": "HTTPS://ZOOM.US.EVIL.COM/x",
    "an empty user": "https://@zoom.us/x",
    "a full-width letter": "https://\uff5aoom.us/x",
    "an ideographic full stop": "https://zoom\u3002us/x",
    "a soft hyphen": "https://zo\u00adom.us/x",
    "an encoded host": "https://%7aoom.us/x",
    "a tab in the host": "https://zo\tom.us/x",
    "a tab in the scheme": "ht\ttps://zoom.us/x",
    "a leading space": " https://zoom.us/x",
    "one slash": "https:/zoom.us/x",
    "backslashes instead of slashes": "https:\\\\zoom.us\\x",
    "two ports": "https://zoom.us:443:443/x",
    "an empty port and another host": "https://zoom.us:@evil.com/x",
    "a Kelvin sign": "https://zoom.us\u212a/x",
    "plain http": "http://zoom.us/x",
    "plain http to the API": "http://api.zoom.us/v2/x",
    "another port": "https://zoom.us:8443/x",
    "a port out of range": "https://zoom.us:65536/x",
    "a private address": "http://10.0.0.1/x",
    "a private address with https": "https://192.168.0.1/x",
    "the metadata service": "http://169.254.169.254/latest/meta-data",
    "another loopback name": "http://localhost/x",
    "an IPv6 loopback address": "http://[::1]/x",
    "a decimal address": "http://2130706433/x",
    "no path": "https://zoom.us",
    "a query without a path": "https://zoom.us?x",
    "a fragment": "https://zoom.us/x#y",
    "a space": "https://zoom.us/x y",
    "a line break": "https://zoom.us/x\r\nHost: evil.com",
    "a NUL": "https://zoom.us/\x00",
    "a backslash": "https://zoom.us/\\evil.com",
    "a backslash as the host": "https://evil.com\\@zoom.us/x",
    "a dot segment": "https://zoom.us/rec/../oauth/token",
    "an escaped dot segment": "https://zoom.us/rec/%2e%2e/x",
    "an escaped slash": "https://zoom.us/rec%2fx",
    "an empty segment": "https://zoom.us//x",
    "an invalid escape": "https://zoom.us/%zz",
    "a control character in the query": "https://zoom.us/x?a=%0a",
    "an invalid query": "https://zoom.us/x?a=<b>",
    "a long path": "https://zoom.us/" + "a" * 3000,
    "a long query": "https://zoom.us/x?" + "a" * 9000,
    "a megabyte": "https://zoom.us/" + "a" * 1_000_000,
    "a file": "file:///etc/passwd",
    "ftp": "ftp://zoom.us/x",
    "no scheme": "//zoom.us/x",
    "nothing": "",
    "a download token for the API": "https://api.zoom.us/v2/x?access_token=y",
}

FORBIDDEN = {
    "the token endpoint": "https://zoom.us/oauth/token",
    "the token endpoint, escaped": "https://zoom.us/%6fauth/token",
    "the token endpoint below the version": "https://zoom.us/v2/oauth/token",
}


def request(url: str, user: str = MONICA, **more: object) -> pb.DownloadRequest:
    return pb.DownloadRequest(user_email=user, url=url, **more)  # type: ignore[arg-type]


ROWS = [
    *(
        Row(f"Download: {name}", "ProxyService.Download", request(url), fields("url"), "INVALID_PATH")
        for name, url in INVALID_URLS.items()
    ),
    *(
        Row(
            f"Download: {name}",
            "ProxyService.Download",
            request(url),
            fields(),
            "CALLER_NOT_ALLOWED",
            "PERMISSION_DENIED",
        )
        for name, url in FORBIDDEN.items()
    ),
    Row(
        "Download: a path that the caller's policy does not allow",
        "ProxyService.Download",
        request("https://zoom.us/rec/download/x", OMAR),
        fields(),
        "CALLER_NOT_ALLOWED",
        "PERMISSION_DENIED",
        "narrow",
    ),
    Row(
        "Download: a header that callers may not set",
        "ProxyService.Download",
        request("/x", headers=[pb.Header(name="Range", value="bytes=0-")]),
        fields("headers[0].name"),
        "HEADER_NOT_ALLOWED",
    ),
    *(
        Row(
            f"Download: the offset {offset}",
            "ProxyService.Download",
            request("/x", offset=offset, etag='"1"'),
            fields("offset"),
        )
        for offset in (-1, -(2**63), 2**63 - 1)
    ),
    *(
        Row(
            f"Download: the ETag {etag[:20]!r}",
            "ProxyService.Download",
            request("/x", offset=1, etag=etag),
            fields("etag"),
        )
        for etag in ("", "1", 'W/"1"', '"a"b"', '"\r\n"', '"\u00fc"', '"' + "a" * 1_000_000 + '"')
    ),
    Row(
        "Download: an ETag without an offset",
        "ProxyService.Download",
        request("/x", etag="a\nb"),
        fields("etag"),
    ),
    Row(
        "ListPages: negative limits",
        "ProxyService.ListPages",
        pb.ListPagesRequest(user_email=MONICA, url="/users", max_pages=-1, max_items=-(2**31)),
        fields("max_pages", "max_items"),
    ),
    Row(
        "ListPages: another host",
        "ProxyService.ListPages",
        pb.ListPagesRequest(user_email=MONICA, url="https://zoom.us/users"),
        fields("url"),
        "INVALID_PATH",
    ),
    Row(
        "ListPages: a header that callers may not set",
        "ProxyService.ListPages",
        pb.ListPagesRequest(user_email=MONICA, url="/x", headers=[pb.Header(name="Cookie", value="a")]),
        fields("headers[0].name"),
        "HEADER_NOT_ALLOWED",
    ),
]
"""Requests to Download and ListPages that are rejected before Zoom is called."""
