"""Benchmark of the processor time that tracing adds to a call: with no call sampled, and with 5 % of the calls sampled.

Run `python -m bench.tracing [ROUNDS] [SECONDS]`. The services are measured alternately, in several rounds.
"""

import asyncio
import contextlib
import re
import statistics
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench import upstream
from bench.__main__ import Target, call, connect_user, load, service_environment
from bench.process_stats import processor_seconds
from bench.server_process import LOAD_CORE, pin_prefix, server
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.options import SimulatedUser
from zoomgate.v1 import auth_service_pb2, meetings_service_pb2
from zoomgate_server.cli.caller_key import new_key

OFF, UNSAMPLED, SAMPLED = "off", "unsampled", "5 % sampled"
GOALS = {UNSAMPLED: 3.0, SAMPLED: 6.0}
"""The maximum processor time that tracing adds to a call, in percent."""

_CALLS = re.compile(r'^zoomgate_rpc_total\{code="OK",.*\} (\S+)$', re.MULTILINE)


class _Collector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def collector() -> Iterator[str]:
    """Run a collector that accepts and discards spans; yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


def variables(endpoint: str, mode: str) -> dict[str, str]:
    """Return the variables of OpenTelemetry of a service."""
    if mode == OFF:
        return {"OTEL_SDK_DISABLED": "true"}
    return {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0" if mode == UNSAMPLED else "0.05",
    }


def successful_calls(http: str) -> float:
    """Return the number of successful calls that a service has served."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as page:
        return sum(map(float, _CALLS.findall(page.read().decode())))


def microseconds_per_call(target: Target, http: str, pid: int, seconds: int, directory: Path) -> float:
    """Generate load on a target, and return the processor time of the service per call."""
    calls, used = successful_calls(http), processor_seconds(pid)
    load(target, seconds, directory)
    return (processor_seconds(pid) - used) / (successful_calls(http) - calls) * 1e6


def measure(directory: Path, api_url: str, simulator: Simulator, rounds: int, seconds: int) -> None:
    """Measure all services, and print the time per call and what tracing adds to it."""
    key = new_key()
    user = simulator.zoom.users[upstream.USER]
    requests = {
        "GetToken": (
            "/zoomgate.v1.AuthService/GetToken",
            auth_service_pb2.GetTokenRequest(user_email=upstream.USER).SerializeToString(),
        ),
        "typed GetMeeting": (
            "/zoomgate.v1.MeetingsService/GetMeeting",
            meetings_service_pb2.GetMeetingRequest(
                user_email=upstream.USER, meeting_id=upstream.MEETING_ID
            ).SerializeToString(),
        ),
    }
    zoomgate = [str(Path(sys.executable).with_name("zoomgate")), "serve"]
    times: dict[tuple[str, str], list[float]] = {}
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(collector())
        services = {}
        for mode in (OFF, UNSAMPLED, SAMPLED):
            folder = directory / mode.replace(" ", "").replace("%", "")
            folder.mkdir()
            environ = service_environment(folder, api_url, simulator, key) | variables(endpoint, mode)
            services[mode] = stack.enter_context(server(zoomgate, environ))
            code = simulator.zoom.issue_code(user, "x")
            connect_user(services[mode][0], key, simulator.zoom.exchange(code, "x", "")["refresh_token"])
        for _ in range(rounds):
            for name, (path, request) in requests.items():
                for mode, (address, http, pid) in services.items():
                    target = Target(address, path, request, key)
                    call(target)
                    spent = microseconds_per_call(target, http, pid, seconds, directory)
                    times.setdefault((name, mode), []).append(spent)
    for name in requests:
        off = times[name, OFF]
        print(f"{name}: {statistics.median(off):.0f} µs of processor time per call without tracing")
        for mode, goal in GOALS.items():
            added = [
                (traced / untraced - 1) * 100 for traced, untraced in zip(times[name, mode], off, strict=True)
            ]
            print(f"  {mode}: {statistics.median(added):+.1f} % (goal: at most {goal:.0f} %)")


async def main() -> None:
    """Run the benchmark against the Zoom simulator and nginx."""
    rounds, seconds = (int(argument) for argument in (sys.argv[1:] + ["5", "3"][len(sys.argv) - 1 :]))
    # separate, since nginx, if started by root, runs as a different user
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as nginx_folder:
        nginx, api_url = upstream.start(Path(nginx_folder), pin_prefix(LOAD_CORE))
        try:
            options = SimulatorOptions(port=0, users=(SimulatedUser(upstream.USER, "u-bench"),))
            async with Simulator(options) as simulator:
                await asyncio.to_thread(measure, Path(name), api_url, simulator, rounds, seconds)
        finally:
            nginx.terminate()
            nginx.wait(10)


if __name__ == "__main__":
    asyncio.run(main())
