"""Benchmark of the processor time that tracing adds to a call: with no call sampled, and with 5 % of the calls sampled.

Run `python -m bench.tracing [ROUNDS] [CALLS]`. The services are measured alternately, in several rounds.
"""

import asyncio
import contextlib
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.load import load
from bench.service import GET_MEETING, GET_TOKEN, new_refresh_token, running, service_environment, zoom
from zoom_simulator import Simulator
from zoomgate_server.cli.caller_key import new_key

OFF, UNSAMPLED, SAMPLED = "off", "unsampled", "5 % sampled"
GOALS = {UNSAMPLED: 3.0, SAMPLED: 6.0}
"""The maximum processor time that tracing adds to a call, in percent."""


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
    with ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as collecting:
        thread = threading.Thread(target=collecting.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{collecting.server_port}"
        finally:
            collecting.shutdown()
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


def measure(directory: Path, api_url: str, simulator: Simulator, rounds: int, calls: int) -> None:
    """Measure all services, and print the time per call and what tracing adds to it."""
    key = new_key()
    paths = {"GetToken": GET_TOKEN, "typed GetMeeting": GET_MEETING}
    times: dict[tuple[str, str], list[float]] = {}
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(collector())
        services = {}
        for mode in (OFF, UNSAMPLED, SAMPLED):
            folder = directory / mode.replace(" ", "").replace("%", "")
            folder.mkdir()
            environ = service_environment(folder, api_url, simulator, key) | variables(endpoint, mode)
            services[mode] = stack.enter_context(running(environ, key, new_refresh_token(simulator)))
        for _ in range(rounds):
            for name, path in paths.items():
                for mode, service in services.items():
                    spent = load(service.target(path), calls, directory).microseconds
                    times.setdefault((name, mode), []).append(spent)
    for name in paths:
        off = times[name, OFF]
        print(f"{name}: {statistics.median(off):.0f} µs of processor time per call without tracing")
        for mode, goal in GOALS.items():
            added = [
                (traced / untraced - 1) * 100 for traced, untraced in zip(times[name, mode], off, strict=True)
            ]
            print(f"  {mode}: {statistics.median(added):+.1f} % (goal: at most {goal:.0f} %)")


async def main(rounds: int = 5, calls: int = 5000) -> None:
    """Run the benchmark against the Zoom simulator and nginx."""
    with tempfile.TemporaryDirectory() as name:
        async with zoom(Path(name)) as (api, simulator):
            await asyncio.to_thread(measure, Path(name), api.url, simulator, rounds, calls)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
