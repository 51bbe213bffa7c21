"""Compares the contract with the one before: the latest release if there is one, else the parent commit."""

import shutil
import subprocess
import sys
from pathlib import Path


def git(*arguments: str) -> str:
    """Run git and give its output, or an empty string if it fails."""
    found = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""


def main() -> int:
    """Run `buf breaking` if there is something to compare with."""
    base = git("describe", "--tags", "--abbrev=0", "--match", "v*") or git("rev-parse", "HEAD~1")
    if not base or not git("ls-tree", "--name-only", base, "buf.yaml"):
        print("proto: there is no earlier contract to compare with")  # noqa: T201
        return 0
    if git("rev-parse", "--is-shallow-repository") == "true":
        print("proto: this clone is shallow, nothing to compare with")  # noqa: T201
        return 0
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or "buf"
    return subprocess.run([buf, "breaking", "--against", f".git#ref={base}"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
