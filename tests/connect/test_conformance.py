"""Connect's own conformance suite (https://github.com/connectrpc/conformance), run against the endpoint."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.toolchain import require

MODULE, VERSION = "connectrpc.com/conformance", "v1.0.7"
HERE = Path(__file__).parent


@pytest.mark.slow
def test_endpoint_passes_the_conformance_suite(tmp_path: Path) -> None:
    """The file conformance.yaml lists what the endpoint claims: unary RPCs over HTTP/1.1, with JSON and binary messages."""
    suite = require("connectconformance", f"go install {MODULE}/cmd/connectconformance@{VERSION}")
    descriptors = tmp_path / "descriptors.binpb"
    build_descriptors(descriptors)
    command = [suite, "--conf", str(HERE / "conformance.yaml"), "--mode", "server", "--"]
    command += [sys.executable, str(HERE / "conformance_server.py"), str(descriptors)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    passed = re.search(r"(\d+) passed, 0 failed", result.stdout)
    assert passed is not None
    assert int(passed[1]) > 0


def build_descriptors(file: Path) -> None:
    """Compile the proto files in the suite's Go module."""
    go = require("go", "https://go.dev/doc/install")
    download = subprocess.run(
        [go, "mod", "download", "-json", f"{MODULE}@{VERSION}"], capture_output=True, text=True, check=True
    )
    (module,) = re.findall(r'"Dir": "(.+)"', download.stdout)
    buf = Path(sys.executable).with_name("buf")
    subprocess.run([buf, "build", f"{module}/proto", "--output", file], check=True)
