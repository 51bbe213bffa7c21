"""Build hook that adds the commit to the distributions of the server."""

import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "server/zoomgate_server"


class CommitHook(BuildHookInterface):
    """Adds the file that `build_info.commit` reads."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file, unless the package contains it already, as in an unpacked sdist.

        An editable installation has no such file, since its commit changes.
        """
        package = Path(self.root, PACKAGE)
        if version == "editable" or (package / "commit.txt").exists():
            return
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name, "commit.txt")
        file.write_text(runpy.run_path(str(package / "build_info.py"))["commit"]())
        target = package.name if self.target_name == "wheel" else PACKAGE
        build_data["force_include"][str(file)] = f"{target}/commit.txt"
