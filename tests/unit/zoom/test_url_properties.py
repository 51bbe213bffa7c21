"""Property tests for accepted targets, which stay below the pinned base URL at any level of decoding."""

from urllib.parse import quote, unquote

from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from zoomgate_server.errors import CallerNotAllowed, InvalidRequest
from zoomgate_server.zoom import urls

BASE = "https://api.zoom.us/v2"
PIECES = st.sampled_from(
    [
        "/", "//", ".", "..", "%2e", "%2E%2e", "%252e", "%2f", "%252F", "%5c", "\\", "@", ":", "?", "#", ";", "&", "=", "%",
        "%00", "\r\n", "\t", "users", "me", "meetings", "123", "oauth", "token", "evil.com", "https://", "api.zoom.us",
        "v2", "ä", "／", "==", "/past_meetings/", "/meetings/", "%3D", "\u202e", " ", "+", "~",
    ]
)  # fmt: skip
TARGETS = st.one_of(
    st.lists(PIECES, max_size=12).map("".join),
    st.lists(PIECES, max_size=12).map(lambda parts: "/" + "".join(parts)),
    st.lists(PIECES, max_size=8).map(lambda parts: BASE + "/" + "".join(parts)),
    st.text(max_size=40),
)
QUERIES = st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), max_size=4)


def decodings(text: str) -> set[str]:
    """Return a string and all results of repeated decoding."""
    seen = {text}
    while (text := unquote(text, errors="replace")) not in seen:
        seen.add(text)
    return seen


@settings(max_examples=1500)
@given(TARGETS, QUERIES)
def test_accepted_targets_stay_below_the_base(url: str, query: list[tuple[str, str]]) -> None:
    """An accepted target has the pinned origin and base path, no dot segments at any level of decoding, and is sent unchanged."""
    try:
        target = urls.parse_target(url, query)
    except (InvalidRequest, CallerNotAllowed):
        return
    raw = BASE + target.path + (f"?{target.query}" if target.query else "")
    built = URL(raw, encoded=True)
    assert str(built.origin()) == "https://api.zoom.us"
    assert built.raw_path.startswith("/v2/")
    assert str(built) == raw
    assert raw.isascii()
    for decoded in decodings(target.path):
        assert not {".", ".."} & {segment.partition(";")[0] for segment in decoded.split("/")}
        assert not any(ord(character) < 0x20 or character in "\\#" for character in decoded)


def outcome(url: str) -> object:
    """Return the target of a URL, or the class of the error."""
    try:
        return urls.parse_target(url)
    except (InvalidRequest, CallerNotAllowed) as error:
        return type(error)


@settings(max_examples=500)
@given(
    st.lists(
        st.sampled_from(["users", "me", "a.b", "@x", ".", "..", ".x", "v2", "V2", "oauth", "OAuth", ""]),
        max_size=5,
    )
)
def test_path_and_full_url_have_the_same_outcome(segments: list[str]) -> None:
    """Usual paths are accepted without the checks that a full URL needs."""
    path = "".join(f"/{segment}" for segment in segments)
    assert outcome(path) == outcome(BASE + path) or not path


@settings(max_examples=300)
@given(st.text(alphabet="ABCDEFabc/_-+", min_size=1, max_size=62).map("{}==".format))
def test_every_encoding_of_a_uuid_is_sent_as_one_segment(uuid: str) -> None:
    """Zoom decodes the segment to the UUID: twice if it starts with a slash or contains two consecutive slashes, otherwise once."""
    encodings = [uuid, quote(uuid, safe=""), quote(quote(uuid, safe=""), safe="")]
    (path,) = {urls.parse_target(f"/past_meetings/{encoded}/x").path for encoded in encodings}
    _, parent, segment, child = path.split("/")
    assert (parent, child) == ("past_meetings", "x")
    decoded = unquote(segment)
    assert (unquote(decoded) if uuid.startswith("/") or "//" in uuid else decoded) == uuid
    assert urls.proxy_path_allowed(["/past_meetings/*/x"], path)
    assert not urls.proxy_path_allowed(["/past_meetings/*", "/past_meetings/*/*/*"], path)


@given(st.lists(st.sampled_from(["users", "me", "*", "x"]), min_size=1, max_size=4), st.booleans())
def test_patterns_match_by_segment(segments: list[str], everything_below: bool) -> None:
    """A literal matches itself, `*` one segment, `**` any number of segments at the end."""
    path = "/" + "/".join("q" if segment == "*" else segment for segment in segments)
    pattern = "/" + "/".join(segments) + ("/**" if everything_below else "")
    assert urls.proxy_path_allowed([pattern], path)
    assert urls.proxy_path_allowed([pattern], path + "/more") is everything_below
    if segments[0] != "*":
        assert not urls.proxy_path_allowed([pattern], "/other" + path)
    assert not urls.proxy_path_allowed([], path)
