"""Comparison of the protobuf API with the newest release tag, using `buf breaking`."""

import shutil
import subprocess
import sys
from pathlib import Path


def git(*arguments: str) -> str:
    """Return the output of a git command, or an empty string if it fails."""
    process = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return process.stdout.strip() if process.returncode == 0 else ""


def main() -> int:
    """Compare the protobuf API with the newest `v*` tag, if there is one."""
    if git("rev-parse", "--is-shallow-repository") == "true":
        print("proto: shallow clone; nothing to compare with")  # noqa: T201
        return 0
    tag = git("describe", "--tags", "--abbrev=0", "--match", "v*")
    if not tag:
        print("proto: no v* tag yet; nothing to compare with")  # noqa: T201
        return 0
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or "buf"
    return subprocess.run([buf, "breaking", "--against", f".git#ref={tag}"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
