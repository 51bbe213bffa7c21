"""The upstream of the benchmarks: nginx, which serves a meeting of 1.5 KB with and without TLS, and a large file."""

import json
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

USER = "bench@example.com"
MEETING_ID = 81234567897
MEETING = {
    "uuid": "4444AAAiAAAAAiAiAiiAii==",
    "id": MEETING_ID,
    "host_id": "x1yCzABCDEfg23HiJKl4mN",
    "host_email": USER,
    "assistant_id": "kFFvsJc-Q1OSxaJQLvaa_A",
    "topic": "Quarterly planning of the northern region",
    "agenda": "Numbers, open positions, and the move to the new building",
    "type": 8,
    "status": "waiting",
    "start_time": "2031-03-25T07:29:29Z",
    "duration": 60,
    "timezone": "America/Los_Angeles",
    "created_at": "2031-03-21T07:29:29Z",
    "start_url": "https://example.zoom.us/s/81234567897?zak=" + "a" * 80,
    "join_url": "https://example.zoom.us/j/81234567897?pwd=abc",
    "password": "123456",
    "h323_password": "123456",
    "pstn_password": "123456",
    "encrypted_password": "8pEkRweVXPV3Ob2KJYgFTRlDtl1gSn.1",
    "pre_schedule": False,
    "creation_source": "open_api",
    "recurrence": {"type": 2, "repeat_interval": 1, "weekly_days": "2,4", "end_times": 2},
    "occurrences": [
        {
            "occurrence_id": "1648194360000",
            "start_time": "2031-03-25T07:46:00Z",
            "duration": 60,
            "status": "available",
        },
        {
            "occurrence_id": "1648194360001",
            "start_time": "2031-03-27T07:46:00Z",
            "duration": 60,
            "status": "deleted",
        },
    ],
    "tracking_fields": [{"field": "Cost center", "value": "4711", "visible": True}],
    "settings": {
        "host_video": True,
        "participant_video": False,
        "join_before_host": True,
        "jbh_time": 5,
        "mute_upon_entry": True,
        "waiting_room": False,
        "use_pmi": False,
        "approval_type": 2,
        "audio": "both",
        "auto_recording": "cloud",
        "alternative_hosts": "a@example.com;b@example.com",
        "meeting_authentication": False,
        "encryption_type": "enhanced_encryption",
        "breakout_room": {"enable": False},
        "a_new_switch": True,
    },
}
FILE_BYTES = 256 * 2**20
BODY = json.dumps(MEETING).encode()
ME = json.dumps({"id": "u-bench", "email": USER, "account_id": "a-bench"}).encode()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running nginx.

    Attributes:
        url: Base URL of its API.
        tls_url: The same API over TLS.
        certificate: PEM file of the self-signed certificate, which the services under load use too.
        key: PEM file of the private key.
    """

    process: subprocess.Popen[bytes]
    url: str
    tls_url: str
    certificate: Path
    key: Path


def start(directory: Path, wrap: list[str]) -> Upstream:
    """Start nginx."""
    port, tls_port = free_port(), free_port()
    certificate, key = directory / "cert.pem", directory / "key.pem"
    options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=bench -addext subjectAltName=IP:127.0.0.1"
    command = ["openssl", "req", *options.split(), "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, capture_output=True, check=True)
    files = directory / "www"
    files.mkdir()
    (files / "meeting").write_bytes(BODY)
    (files / "me").write_bytes(ME)
    with (files / "file").open("wb") as file:
        file.truncate(FILE_BYTES)
    config = directory / "nginx.conf"
    # a master process that runs as root would give the directory to another user; otherwise, `user` has no effect
    config.write_text(
        f"""user root; daemon off; worker_processes 1; error_log {directory}/error.log; pid {directory}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; default_type application/json;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  open_file_cache max=10;
  server {{
    listen 127.0.0.1:{port};
    listen 127.0.0.1:{tls_port} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    location = /v2/users/me {{ alias {files}/me; }}
    location = /v2/users/me/meetings {{ return 201 '{BODY.decode()}'; }}
    location = /v2/meetings/{MEETING_ID} {{ alias {files}/meeting; }}
    location = /v2/file {{ alias {files}/file; }}
  }}
}}
"""
    )
    process = subprocess.Popen(
        [*wrap, "nginx", "-p", str(directory), "-c", str(config)], stderr=subprocess.DEVNULL
    )
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", tls_port), timeout=0.2).close()
        except OSError:
            time.sleep(0.02)
        else:
            urls = f"http://127.0.0.1:{port}/v2", f"https://127.0.0.1:{tls_port}/v2"
            return Upstream(process, *urls, certificate, key)
    raise RuntimeError("nginx did not start")
