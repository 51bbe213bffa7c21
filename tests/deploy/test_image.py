"""Tests of the image and of the systemd unit, in real containers.

The base image is not pulled. A system of Debian packages, with the Python of the distribution and systemd, takes its place.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.certificates import write_pair
from support.toolchain import require, unavailable
from support.wheels import ROOT, make_dist
from zoomgate_server.encryption import key_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
DEPLOY = ROOT / "deploy"
PACKAGES = "ca-certificates,dbus,procps,python3,python3-venv,systemd"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
BASE = """
FROM scratch
ADD base.tar /
RUN ln -s /usr/bin/python3 /usr/local/bin/python3 && useradd --system --home-dir /var/lib/zoomgate zoomgate
COPY ca-certificates.crt /etc/ssl/certs/
{environ}
"""
IMAGE = "zoomgate:test"
PROBE = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz')"
CALLERS = f"""
[[callers]]
name = "calendar"
role = "service"
users = ["*"]
key_sha256 = "{"0" * 64}"
"""


@dataclass(frozen=True)
class Containers:
    """The images and containers in a directory. Nothing outside of it changes."""

    directory: Path

    def podman(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run podman."""
        options = [
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
            "--runtime=runc",
            "--storage-driver=overlay",
        ]
        folders = [f"--root={self.directory / 'root'}", f"--runroot={self.directory / 'run'}"]
        result = subprocess.run(
            ["podman", *options, *folders, *arguments], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0 or not check, result.stderr[-2000:]
        return result

    def build(self, context: Path, file: Path, tag: str) -> None:
        """Build an image with the network of this machine."""
        arguments = (
            "--isolation=chroot",
            "--pull=never",
            "--format=docker",
            f"--file={file}",
            f"--tag={tag}",
        )
        self.podman("build", "--quiet", *arguments, str(context))

    def run(self, *arguments: str) -> str:
        """Run a container of the image without a network, and return its output."""
        # podman's default limits may exceed those of this machine
        limits = ("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096")
        return self.podman("run", "--network=none", "--no-healthcheck", *limits, *arguments).stdout


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    """Build the image from deploy/Dockerfile, in a context with the files that a release provides."""
    for tool in ("podman", "runc", "mmdebstrap"):
        require(tool, "see .ci/run")
    if os.geteuid() != 0:
        unavailable("containers require root here")
    directory = Path(tempfile.mkdtemp(prefix="podman-"))  # podman requires a path of at most 50 characters
    built = Containers(directory)
    try:
        base, context = directory / "base", directory / "context"
        base.mkdir()
        options = ["--quiet", "--variant=apt", f"--include={PACKAGES}"]
        suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
        subprocess.run(["mmdebstrap", *options, suite, base / "base.tar"], check=True)
        shutil.copy(CA_BUNDLE, base / "ca-certificates.crt")
        environ = "\n".join(
            f'ENV {name}="{value}"' for name, value in os.environ.items() if name[:4] == "PIP_"
        )
        (base / "Dockerfile").write_text(BASE.format(environ=environ), encoding="utf-8")
        (name,) = set(re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE))
        built.build(base, base / "Dockerfile", name)
        shutil.copytree(DEPLOY, context / "deploy")
        make_dist(context / "dist")
        built.build(context, context / "deploy/Dockerfile", IMAGE)
        yield built
    finally:
        built.podman("rm", "--all", "--force", "--volumes", "--time=1", check=False)
        built.podman("rmi", "--all", "--force", check=False)
        shutil.rmtree(directory, ignore_errors=True)


def until(succeeds: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + 60
    while not succeeds():
        assert time.monotonic() < end
        time.sleep(0.2)


def write_secrets(directory: Path, group: int) -> Path:
    """Write the secrets of a service, as Kubernetes mounts them: they belong to root, and the group of the service may read them."""
    directory.mkdir()
    key_file.create(directory / "keys.json")
    write_pair(directory)
    (directory / "callers.toml").write_text(CALLERS)
    (directory / "zoomgate.toml").write_text('client_id = "app"\n')
    (directory / "velo-zoom-integration-client-secret").write_text("secret")
    for path in directory.iterdir():
        os.chown(path, 0, group)
        path.chmod(0o440)
    return directory


def test_image_serves_without_root_and_with_a_read_only_file_system(
    containers: Containers, tmp_path: Path
) -> None:
    """The health check succeeds once the service is ready, and SIGTERM ends it with exit code 0. The data folder survives the container."""
    (image,) = json.loads(containers.podman("inspect", IMAGE).stdout)
    user, _, group = image["Config"]["User"].partition(":")
    assert user != "0"
    settings = {
        "CONFIG": "/etc/zoomgate/zoomgate.toml",
        "SECRETS_DIR": "/etc/zoomgate",
        "KEYS": "/etc/zoomgate/keys.json",
        "CALLERS": "/etc/zoomgate/callers.toml",
        "TLS_CERT": "/etc/zoomgate/cert.pem",
        "TLS_KEY": "/etc/zoomgate/key.pem",
        "PUBLIC_URL": "https://zoomgate.example.com",
        "TRUSTED_PROXIES": "192.0.2.1",
        "WORKERS": "2",
    }
    arguments = (
        *("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
        *(
            "--volume=data:/var/lib/zoomgate",
            f"--volume={write_secrets(tmp_path / 'secrets', int(group))}:/etc/zoomgate:ro",
        ),
        "--env=http_proxy=http://192.0.2.1:3128",  # as Docker passes it from ~/.docker/config.json; the health check is local
        *(f"--env=ZOOMGATE_{name}={value}" for name, value in settings.items()),
        IMAGE,
    )
    kind, *check = image["Healthcheck"]["Test"]
    assert kind == "CMD"
    for name in ("first", "second"):
        containers.run("--detach", f"--name={name}", *arguments)
        until(lambda: containers.podman("exec", name, *check, check=False).returncode == 0)  # noqa: B023 - called at once
        doctor = containers.podman("exec", name, "zoomgate", "doctor", "--json", check=False)
        findings = [json.loads(line) for line in doctor.stdout.splitlines()]
        problems = [row["check"] for row in findings if row["result"] == "failure"]
        assert problems == ["Zoom"]  # there is no network
        containers.podman("stop", "--time=120", name)
        (stopped,) = json.loads(containers.podman("inspect", name).stdout)
        assert stopped["State"]["ExitCode"] == 0
        log = containers.podman("logs", name)
        assert '"event":"service.stopped"' in log.stderr
        containers.podman("rm", name)


def test_documented_installation_starts_the_service_under_systemd(
    containers: Containers, tmp_path: Path
) -> None:
    """With all its restrictions, the service reads its credential, writes its data folder, reloads, and stops without a failure."""
    page = (ROOT / "docs/deploy.md").read_text(encoding="utf-8").partition("## One machine")[2]
    install, start = re.findall(r"^```sh\n(.+?)^```$", page, re.MULTILINE | re.DOTALL)[:2]
    folders = "".join(re.findall(r"^install -d .+\n", install, re.MULTILINE))
    (tmp_path / "client-secret").write_text("secret")
    (tmp_path / "client-secret").chmod(0o600)
    (tmp_path / "zoomgate.toml").write_text(
        re.findall(r"^```toml\n(.+?)^```$", page, re.MULTILINE | re.DOTALL)[0].replace("…", "app")
    )
    tmp_path.chmod(0o755)
    # in a container, systemd does not share its mounts, among which are the credentials of services
    systemd = "mount --make-rshared / && exec /lib/systemd/systemd"
    containers.run(
        *("--detach", "--name=systemd"),
        *("--privileged", "--systemd=always", "--user=root", "--entrypoint=/bin/sh"),
        f"--volume={DEPLOY / 'zoomgate.service'}:/etc/systemd/system/zoomgate.service:ro",
        f"--volume={tmp_path}:/etc/zoomgate",
        *(IMAGE, "-c", systemd),
    )

    def run(*command: str) -> str:
        return containers.podman("exec", "systemd", *command).stdout

    def succeeds(*command: str) -> bool:
        return containers.podman("exec", "systemd", *command, check=False).returncode == 0

    until(lambda: succeeds("systemctl", "is-system-running"))
    # without the environment of the image, whose settings are not those of the unit
    run("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-ec", folders + start)
    until(lambda: succeeds("python3", "-c", PROBE))
    run("systemctl", "reload", "zoomgate")
    run("systemctl", "stop", "zoomgate")
    shown = run("systemctl", "show", "zoomgate", "--property=Result,ExecMainStatus")
    assert set(shown.split()) == {"Result=success", "ExecMainStatus=0"}
    journal = run("journalctl", "--unit=zoomgate", "--output=cat")
    for event in ("service.started", "files.reloaded", "service.stopped"):
        assert f'"event":"{event}"' in journal
    assert '"level":"error"' not in journal
