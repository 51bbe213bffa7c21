"""Generator of the service config for clients in all languages: the Python client's retries, and timeouts for calls without a deadline.

With `--check`, it only verifies that the file is up to date.
"""

import json
import sys
from pathlib import Path

from zoomgate import _channel

FILE = Path(__file__).parents[1] / "proto/zoomgate/v1/service_config.json"

TIMEOUT = "60s"
"""The maximum duration of a unary call. gRPC uses the call's own deadline if it is earlier."""


def content() -> str:
    """Return the service config."""
    config = json.loads(_channel.service_config())
    (retries,) = config["methodConfig"]
    unary, streams = (
        [
            {"service": service.full_name, "method": method.name}
            for service in _channel.SERVICES
            for method in service.methods
            if method.server_streaming is streaming
        ]
        for streaming in (False, True)
    )
    retried = retries["name"]
    config["methodConfig"] = [
        retries | {"name": [name for name in unary if name in retried], "timeout": TIMEOUT},
        retries | {"name": [name for name in streams if name in retried]},
        {"name": [name for name in unary if name not in retried], "timeout": TIMEOUT},
    ]
    return json.dumps({"loadBalancingConfig": [{"round_robin": {}}], **config}, indent=2) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if FILE.read_text() == content() else f"{FILE.name} is out of date; run `make generate`")
    FILE.write_text(content())
