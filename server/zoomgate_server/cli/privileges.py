"""Dropping of root's privileges: a command that root runs on files of another user runs as that user.

That user can replace its files and directories by links at any time. A command with root's privileges would follow these links.
"""

import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

import click

from zoomgate_server import settings
from zoomgate_server.settings import Settings

_MAX_STEPS = 1000
"""Maximum number of components of a path, including the targets of symbolic links. Loops of links exceed it."""


def load_settings(environ: Mapping[str, str], options: Mapping[str, str] = {}) -> Settings:
    """Read the settings, and run the rest of the command as the owner of the configured files; see `read_settings` and `run_as_owner`."""
    loaded = read_settings(environ, options)
    paths = (loaded.data_dir, loaded.store, loaded.keys, loaded.audit)
    run_as_owner(*(path for path in paths if isinstance(path, Path)))
    return loaded


def read_settings(environ: Mapping[str, str], options: Mapping[str, str] = {}) -> Settings:
    """Read the settings, as the owner of the settings file: this file names further files, which root could read.

    Raises:
        SettingsError: See `settings.load`.
    """
    config = options.get("config") or environ.get("ZOOMGATE_CONFIG")
    if config:
        run_as_owner(Path(config))
    return settings.load(environ, options)


def run_as_owner(*paths: Path) -> None:
    """Run the rest of the command as the first user other than root who owns a component of a path. Do nothing without root's privileges.

    Raises:
        click.ClickException: Several users can write to a directory of a path, or the command cannot run as the owner; or the path is
            relative, and the current directory was deleted.
    """
    for path in paths:
        try:
            absolute = path.absolute()
        except FileNotFoundError:
            raise click.ClickException(
                f"{path} cannot be found, because the current directory was deleted; change to a different directory"
            ) from None
        if os.geteuid() == 0 and (foreign := _first_foreign(absolute)) is not None:
            _become(*foreign)


def _first_foreign(path: Path) -> tuple[int, Path] | None:
    """Return the first component of an absolute path that does not belong to root, and its owner. Return None if there is none.

    The components before it can be changed by root only, so the result does not change before it is used.
    """
    directory, names = Path("/"), list(path.parts)
    shared = False  # whether other users can create files in `directory`, but cannot replace directories of root, as in /tmp
    for _ in range(_MAX_STEPS):
        if not names:
            break
        component = directory / names.pop(0)
        try:
            status = component.lstat()
        except OSError:
            break
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFCHR:
            return None
        if status.st_uid != 0:
            return status.st_uid, component
        if shared and kind != stat.S_IFDIR:
            break
        if kind == stat.S_IFLNK:
            names[:0] = component.readlink().parts
            continue
        shared = bool(status.st_mode & 0o022)
        directory = component
        if shared and not status.st_mode & stat.S_ISVTX:
            break
    else:
        raise click.ClickException(f"{path} contains a loop of symbolic links; correct the path")
    if shared:
        raise click.ClickException(
            f"{directory} is writable by other users, who could replace the files that root writes; use a directory to which"
            " only root can write, or run this command as the service's user"
        )
    return None


def _become(uid: int, owned: Path) -> None:
    try:
        user = pwd.getpwuid(uid)
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(uid)
    except (KeyError, OSError):
        raise click.ClickException(f"{owned} belongs to user {uid}; run this command as that user") from None
    if not os.access(__file__, os.R_OK):
        raise click.ClickException(
            f"this command runs as {user.pw_name}, the owner of {owned}, who cannot read {Path(__file__).parent}; install Zoomgate where"
            " this user can read it"
        )
    os.environ.setdefault("SUDO_USER", "root")  # as with sudo; the audit trail records it
    click.echo(f"zoomgate: running as {user.pw_name}, the owner of {owned}", err=True)
