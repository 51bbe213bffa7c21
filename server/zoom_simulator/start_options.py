"""What somebody typed when starting the simulator, made into options."""

import ipaddress
import re
from dataclasses import replace
from pathlib import Path

from zoom_simulator import clock, seed_files
from zoom_simulator.options import SimulatorOptions

LISTEN_HELP = "HOST:PORT of this machine; port 0 picks a free one."
SEED_HELP = "Foretellable ids, tokens and passwords: the same seed and requests give the same answers."
CLOCK_HELP = (
    "A clock that stands still at this moment, such as 2026-01-01T00:00:00Z, until POST /_sim/clock moves it."
)
SEED_FILE_HELP = (
    "TOML file with the users, instead of the usual ones, and the meetings that are there at the start."
)
WEBHOOK_HELP = "Address that events are told to, such as that a user removed the app."
MOST_SEED = 2**63 - 1


class WrongOption(Exception):
    """An option cannot be used; the text says which, why, and what to write instead, in a sentence a line."""


def listen_address(option: str, text: str) -> tuple[str, int]:
    """Read where to listen: the simulator has no TLS and its secrets are public, so it is for this machine alone.

    Raises:
        WrongOption: It is no HOST:PORT of this machine.
    """
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+)):([0-9]{1,5})", text)
    if found is None or int(found[3]) > 65_535 or not _is_loopback(found[1] or found[2]):
        raise WrongOption(f"{option} is {text!r}: write 127.0.0.1:PORT with a port from 0 to 65535")
    return found[1] or found[2], int(found[3])


def with_start(
    options: SimulatorOptions,
    *,
    seed: int | None,
    moment: str | None,
    seed_file: str | None,
    webhook_url: str | None,
) -> SimulatorOptions:
    """Add what was given as `--seed`, `--clock`, `--seed-file` and `--webhook-url`.

    Raises:
        WrongOption: One of them cannot be used.
    """
    if seed is not None and not 0 <= seed <= MOST_SEED:
        raise WrongOption(f"--seed is {seed}: write a whole number from 0 to {MOST_SEED}")
    standing = None
    if moment is not None:
        try:
            standing = clock.parse(moment)
        except ValueError:
            raise WrongOption(
                f"--clock is {moment!r}: write a moment of UTC from 1970 to 2100, such as 2026-01-01T00:00:00Z"
            ) from None
    if webhook_url is not None and not re.fullmatch(r"https?://[^\s/?#@]+/[!-~]*", webhook_url):
        raise WrongOption(f"--webhook-url is {webhook_url!r}: write http://127.0.0.1:PORT/PATH")
    options = replace(options, seed=seed, standing_clock=standing, webhook_url=webhook_url or "")
    if seed_file is None:
        return options
    try:
        content = seed_files.load(Path(seed_file))
    except seed_files.SeedFileError as error:
        raise WrongOption("\n".join(f"--seed-file: {problem}" for problem in error.problems)) from None
    return replace(options, users=content.users, meetings=content.meetings)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
