"""Startup options from the command line, shared by both commands that start the simulator."""

import ipaddress
import re
from dataclasses import replace
from pathlib import Path

from zoom_simulator import clock, seed_files
from zoom_simulator.options import SimulatorOptions

LISTEN_HELP = "Loopback HOST:PORT to listen on; port 0 selects a free port."
SEED_HELP = (
    "Make IDs, tokens and passwords reproducible: the same seed and requests yield the same responses."
)
CLOCK_HELP = (
    "Freeze the clock at this time, such as 2026-01-01T00:00:00Z, until POST /_sim/clock advances it."
)
SEED_FILE_HELP = "TOML file with the users, which replace the default users, and the meetings at startup."
WEBHOOK_HELP = "URL that receives webhook events, such as the removal of the app."
MAX_SEED = 2**63 - 1


class InvalidOption(Exception):
    """An error for an invalid command-line option. The message contains a line with option and correction for each problem."""


def parse_listen_address(option: str, text: str) -> tuple[str, int]:
    """Parse the address to listen on.

    Only loopback addresses are accepted, because the simulator has no TLS and its secrets are public.

    Raises:
        InvalidOption: The text is not HOST:PORT with a loopback address.
    """
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65_535 or not _is_loopback(match[1] or match[2]):
        raise InvalidOption(f"{option} is {text!r}; use 127.0.0.1:PORT with a port from 0 to 65535")
    return match[1] or match[2], int(match[3])


def with_startup_options(
    options: SimulatorOptions,
    *,
    seed: int | None,
    frozen_at: str | None,
    seed_file: str | None,
    webhook_url: str | None,
) -> SimulatorOptions:
    """Return the options with `--seed`, `--clock`, `--seed-file` and `--webhook-url` applied.

    Raises:
        InvalidOption: An option is invalid.
    """
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise InvalidOption(f"--seed is {seed}; use an integer from 0 to {MAX_SEED}")
    frozen_clock = None
    if frozen_at is not None:
        try:
            frozen_clock = clock.parse(frozen_at)
        except ValueError:
            raise InvalidOption(
                f"--clock is {frozen_at!r}; use a UTC time from 1970 to 2100, such as 2026-01-01T00:00:00Z"
            ) from None
    if webhook_url is not None and not re.fullmatch(r"https?://[^\s/?#@]+/[!-~]*", webhook_url):
        raise InvalidOption(f"--webhook-url is {webhook_url!r}; use http://127.0.0.1:PORT/PATH")
    options = replace(options, seed=seed, frozen_clock=frozen_clock, webhook_url=webhook_url or "")
    if seed_file is None:
        return options
    try:
        seeded = seed_files.load(Path(seed_file))
    except seed_files.SeedFileError as error:
        raise InvalidOption("\n".join(f"--seed-file: {problem}" for problem in error.problems)) from None
    return replace(options, users=seeded.users, meetings=seeded.meetings)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
