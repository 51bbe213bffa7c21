"""The service under load, with nginx and the Zoom simulator in the place of Zoom."""

import contextlib
import re
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format

from bench import meeting_rules, upstream
from bench.load import Target, call, open_channel
from bench.server_process import LOAD_CORE, pin_prefix, server
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.options import SimulatedUser
from zoomgate.v1 import auth_service_pb2, auth_service_pb2_grpc, meetings_service_pb2, proxy_service_pb2
from zoomgate_server.cli.caller_key import digest

ZOOMGATE = str(Path(sys.executable).with_name("zoomgate"))
USER = SimulatedUser(upstream.USER, "u-bench")

GET_MEETING = "/zoomgate.v1.MeetingsService/GetMeeting"
CREATE_MEETING = "/zoomgate.v1.MeetingsService/CreateMeeting"
FORWARD = "/zoomgate.v1.ProxyService/Get"
GET_TOKEN = "/zoomgate.v1.AuthService/GetToken"
REQUESTS = {
    GET_MEETING: meetings_service_pb2.GetMeetingRequest(
        user_email=upstream.USER, meeting_id=upstream.MEETING_ID
    ).SerializeToString(),
    CREATE_MEETING: meetings_service_pb2.CreateMeetingRequest(
        user_email=upstream.USER, meeting_details=meeting_rules.full_details()
    ).SerializeToString(),
    FORWARD: proxy_service_pb2.GetRequest(
        user_email=upstream.USER, url=f"/meetings/{upstream.MEETING_ID}"
    ).SerializeToString(),
    GET_TOKEN: auth_service_pb2.GetTokenRequest(user_email=upstream.USER).SerializeToString(),
}
"""The requests under load, by path."""


@dataclass(frozen=True, slots=True)
class Service:
    """A running service whose user is connected."""

    address: str
    http: str
    process: int
    key: str
    certificate: Path | None = None

    def target(self, path: str) -> Target:
        """Return an RPC of the service as the target of load."""
        return Target(self.address, self.process, path, REQUESTS[path], self.key, self.certificate)

    def connect_target(self, path: str, content_type: str) -> Target:
        """Return an RPC, called with the Connect protocol, as the target of load."""
        request = REQUESTS[path]
        if content_type == "application/json":
            message = meetings_service_pb2.GetMeetingRequest.FromString(request)
            request = json_format.MessageToJson(message, indent=None).encode()
        return Target(self.http, self.process, path, request, self.key, content_type=content_type)


@contextlib.asynccontextmanager
async def zoom(
    directory: Path, users: Sequence[SimulatedUser] = ()
) -> AsyncIterator[tuple[upstream.Upstream, Simulator]]:
    """Run nginx as Zoom's API and the simulator for OAuth."""
    api = upstream.start(directory, pin_prefix(LOAD_CORE))
    try:
        async with Simulator(SimulatorOptions(port=0, users=(USER, *users))) as simulator:
            yield api, simulator
    finally:
        api.process.terminate()
        api.process.wait(10)


@contextlib.contextmanager
def running(
    environ: dict[str, str], key: str, refresh_token: str, *, command: str = ZOOMGATE
) -> Iterator[Service]:
    """Run a service, connect the user, and check the response of each RPC under load."""
    certificate = Path(environ["ZOOMGATE_TLS_CERT"]) if "ZOOMGATE_TLS_CERT" in environ else None
    with server([command, "serve"], environ) as (address, http, process):
        service = Service(address, http, process, key, certificate)
        connect_user(service.target(GET_TOKEN), refresh_token)
        meeting = meetings_service_pb2.GetMeetingResponse.FromString(call(service.target(GET_MEETING)))
        created = meetings_service_pb2.CreateMeetingResponse.FromString(call(service.target(CREATE_MEETING)))
        assert meeting.meeting.id == created.meeting.id == upstream.MEETING_ID
        forwarded = proxy_service_pb2.GetResponse.FromString(call(service.target(FORWARD)))
        assert forwarded.response.body == upstream.BODY
        call(service.target(GET_TOKEN))
        yield service
        assert not failed_calls(http), failed_calls(http)


def service_environment(directory: Path, api_url: str, simulator: Simulator, key: str) -> dict[str, str]:
    """Return the settings of the service under load."""
    callers = directory / "callers.toml"
    callers.write_text(
        f'[[callers]]\nname = "bench"\nrole = "service"\nkey_sha256 = "{digest(key)}"\nusers = ["*"]\n'
        'access_tokens = true\nproxy_paths = ["/**"]\n'
    )
    callers.chmod(0o600)
    return {
        "ZOOMGATE_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_CONNECT_RPC": "on",
        "ZOOMGATE_DATA_DIR": str(directory / "data"),
        "ZOOMGATE_CALLERS": str(callers),
        "ZOOMGATE_CLIENT_ID": simulator.options.client_id,
        "ZOOMGATE_CLIENT_SECRET": simulator.options.client_secret,
        "ZOOMGATE_ZOOM_API_URL": api_url,
        "ZOOMGATE_ZOOM_OAUTH_URL": simulator.oauth_url,
        "ZOOMGATE_LOG_FORMAT": "json",
    }


def new_refresh_token(simulator: Simulator) -> str:
    """Return a refresh token of a new consent of the user."""
    code = simulator.zoom.issue_code(USER, "x")
    return str(simulator.zoom.exchange(code, "x", "")["refresh_token"])


def connect_user(service: Target, refresh_token: str) -> None:
    """Connect the user of the benchmarks with a refresh token, at the server of a target."""
    with open_channel(service) as channel:
        auth_service_pb2_grpc.AuthServiceStub(channel).RequestToken(
            auth_service_pb2.RequestTokenRequest(user_email=upstream.USER, refresh_token=refresh_token),
            metadata=(("authorization", f"Bearer {service.key}"),),
            timeout=10,
        )


def store_reads(http: str) -> float:
    """Return the number of records that the service has read from the store to handle calls."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as page:
        match = re.search(r"^zoomgate_store_reads_total ([\d.e+]+)$", page.read().decode(), re.MULTILINE)
    assert match is not None
    return float(match.group(1))


def failed_calls(http: str) -> list[str]:
    """Return the service's nonzero counters of failed calls. h2load checks only the HTTP status, 200 even for failed gRPC calls.

    Clients end their watches by canceling them.
    """
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    counters = [line for line in lines if line.startswith("zoomgate_rpc_total{") and 'code="OK"' not in line]
    ended_watch = 'code="CANCELLED",method="AuthService.WatchConnections"'
    return [line for line in counters if float(line.rpartition(" ")[2]) and ended_watch not in line]
