"""Tests for seed files with users and meetings."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from support.zoom_app import Client, Clock
from zoom_simulator import Simulator, SimulatorOptions, seed_files

VALID = """
[[users]]
email = "ada@example.com"
first_name = "Ada"
timezone = "Europe/London"

[[users.meetings]]
id = 81234500001
topic = "Notes"
start_time = 2026-01-05T10:00:00+01:00
duration = 30

[[users.meetings]]
topic = "Every day"
type = 8
start_time = "2026-01-05T09:00:00"
recurrence = { type = 1, end_times = 3 }

[[users]]
email = "charles@example.com"
user_id = "u-charles"
licensed = false
"""


async def test_seeded_users_and_meetings_exist_at_startup_and_after_reset() -> None:
    """Seeded users replace the default users, and meetings in the past retain their start."""
    seed = seed_files.parse(VALID, "seed.toml")
    options = SimulatorOptions(port=0, users=seed.users, meetings=seed.meetings)
    async with Simulator(options) as simulator, aiohttp.ClientSession() as session:
        client = Client(simulator, session)
        for _ in range(2):
            await client.consent(user="ada@example.com")
            _, meeting = await client.api("GET", "/meetings/81234500001")
            assert (meeting["topic"], meeting["start_time"]) == ("Notes", "2026-01-05T09:00:00Z")
            _, daily = await client.api("GET", "/meetings/81234567897?show_previous_occurrences=true")
            assert [row["start_time"] for row in daily["occurrences"]] == [
                f"2026-01-0{day}T09:00:00Z" for day in (5, 6, 7)
            ]
            assert (await client.api("DELETE", "/meetings/81234500001"))[0] == 204
            await client.sim("reset")
        async with session.get(f"{simulator.url}/_sim/users") as response:
            assert [user["email"] for user in await response.json()] == [
                "ada@example.com",
                "charles@example.com",
            ]


PLAYED = """
[[users]]
email = "ada@example.com"
first_name = "Ada"

[[users.meetings]]
id = 81234500001
type = 3
settings = { approval_type = 0 }

[[users.meetings.registrants]]
email = "jo@example.com"
first_name = "Jo"

[[users.meetings.instances]]
start_time = 2030-02-12T09:00:00Z
minutes = 15

[[users.meetings.instances]]
start_time = 2030-02-05T10:00:00+01:00
minutes = 45
participants = [{ name = "Jo", email = "jo@example.com" }, { name = "Guest" }]
"""


async def test_seeded_registrants_and_past_instances_exist_at_startup(clock: Clock) -> None:
    """The instances are ordered by their start, and the host takes part in each of them."""
    seed = seed_files.parse(PLAYED, "seed.toml")
    options = SimulatorOptions(port=0, users=seed.users, meetings=seed.meetings)
    async with Simulator(options, wall=clock) as simulator, aiohttp.ClientSession() as session:
        client = Client(simulator, session)
        await client.consent(user="ada@example.com")
        path, past = "/meetings/81234500001", "/past_meetings/81234500001"
        _, listed = await client.api("GET", f"{path}/registrants")
        (jo,) = listed["registrants"]
        _, instances = await client.api("GET", f"{past}/instances")
        starts = [each["start_time"] for each in instances["meetings"]]
        assert starts == ["2030-02-05T09:00:00Z", "2030-02-12T09:00:00Z"]
        assert (await client.api("GET", past))[1]["duration"] == 15
        first = (
            f"/past_meetings/{quote(quote(instances['meetings'][0]['uuid'], safe=''), safe='')}/participants"
        )
        url = URL(simulator.api_url + first, encoded=True)
        async with session.get(url, headers={"Authorization": f"Bearer {client.access}"}) as response:
            participants = (await response.json())["participants"]
        assert [each["name"] for each in participants] == ["Ada", "Jo", "Guest"]
        assert participants[1]["registrant_id"] == jo["id"]


async def test_new_meeting_does_not_reuse_a_seeded_id() -> None:
    text = '[[users]]\nemail = "a@b.example"\n[[users.meetings]]\nid = 81234567897\ntopic = "first"\n'
    seed = seed_files.parse(text, "seed.toml")
    options = SimulatorOptions(port=0, users=seed.users, meetings=seed.meetings)
    async with Simulator(options) as simulator, aiohttp.ClientSession() as session:
        client = Client(simulator, session)
        await client.consent(user="a@b.example")
        assert (await client.api("POST", "/users/me/meetings"))[1]["id"] == 81_234_567_904


USER = '[[users]]\nemail = "a@b.example"\n'
MEETING = USER + "[[users.meetings]]\n"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["1: users is missing"]),
        ("users = 5", ["1: users must be an array of tables; use [[users]]"]),
        ("[user]\nemail = 'x'", ["1: unknown key user; only [[users]]"]),
        ("[[users]]\nfirst_name = 'A'", ["1: users[1].email must be an email address; for example email ="]),
        ("[[users]]\nemail = 'invalid'", ["2: users[1].email must be an email address"]),
        (
            f"{USER}{USER}",
            [
                "4: users[2].email is already used by a different user",
                "3: users[2].user_id is already used by a different user",
            ],
        ),
        (
            f"{USER}[[users]]\nemail = 'A@B.example'",
            ["4: users[2].email is already used by a different user"],
        ),
        (f"{USER}fist_name = 'A'", ["3: unknown key users[1].fist_name; use first_name"]),
        (f"{USER}colour = 'red'", ["3: unknown key users[1].colour; use one of email, user_id"]),
        (f"{USER}licensed = 1", ["3: users[1].licensed must be true or false; for example licensed = true"]),
        (f"{USER}timezone = 'Mars'", ["3: users[1].timezone 'Mars' is unknown; use an IANA name"]),
        (f"{USER}last_name = 7", ["3: users[1].last_name must be text"]),
        (
            f"{MEETING}duration = 0",
            ["4: users[1].meetings[1].duration is invalid; for example duration = 60"],
        ),
        (f"{MEETING}start_time = 'soon'", ["4: users[1].meetings[1].start_time is invalid; for example"]),
        (f"{MEETING}start_time = 2026-01-05", ["4: users[1].meetings[1].start_time is invalid; for example"]),
        (f"{MEETING}id = 5", ["4: users[1].meetings[1].id is invalid; for example id = 81234500001"]),
        (
            f"{MEETING}registrants = [{{ email = 'jo' }}]",
            [
                "4: users[1].meetings[1].registrants[0].email is invalid; for example registrants =",
                "4: users[1].meetings[1].registrants[0].first_name is invalid",
            ],
        ),
        (
            f"{MEETING}instances = [{{ start_time = 2030-01-01T00:00:00Z, minutes = 0 }}]",
            ["4: users[1].meetings[1].instances[0].minutes is invalid; for example instances ="],
        ),
        (
            f"{MEETING}settings = {{ audio = 'x' }}",
            ["4: users[1].meetings[1].settings.audio is invalid; for example settings ="],
        ),
        (f"{MEETING}titel = 'x'", ["4: unknown key users[1].meetings[1].titel"]),
        (
            f"{MEETING}type = 8\nrecurrence = {{ type = 9 }}",
            ["5: users[1].meetings[1].recurrence.type is invalid"],
        ),
        (f"{USER}meetings = [ 5 ]", ["3: meetings must be an array of tables; use [[users.meetings]]"]),
        (
            f"{USER}[[users.meetings]]\n[[users.meetings]]\ntopic = 5\ntype = 7",
            [
                "5: users[1].meetings[2].topic is invalid; for example topic =",
                "6: users[1].meetings[2].type is invalid; for example type = 2",
            ],
        ),
    ],
)
def test_problems_name_line_field_and_correction(text: str, problems: list[str]) -> None:
    with pytest.raises(seed_files.SeedFileError) as raised:
        seed_files.parse(text, "seed.toml")
    reported = raised.value.problems
    assert len(reported) == len(problems), reported
    for actual, expected in zip(reported, problems, strict=True):
        assert actual.startswith(f"seed.toml:{expected}")


@pytest.mark.parametrize("command", [["zoom_simulator"], ["zoomgate_server", "simulator"]])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\xff", "is not UTF-8"),
        (b"users =", "is not valid TOML"),
        (b"users = " + b"[" * 100_000, "nested too deeply"),
        (b"users = " + b"9" * 100_000, "a number that is too long"),
        (b"[[users]]\nemail = 5\n", "seed.toml:2: users[1].email"),
    ],
)
def test_invalid_file_prevents_startup(
    tmp_path: Path, command: list[str], content: bytes | None, message: str
) -> None:
    """Both commands print an explanation and exit with code 2."""
    if content is not None:
        (tmp_path / "seed.toml").write_bytes(content)
    result = subprocess.run(
        [sys.executable, "-m", *command, "--listen", "127.0.0.1:0", "--seed-file", "seed.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "user", [{}, {"email": 5}, {"email": "x"}, {"email": "a@b.example", "timezone": "Mars"}, {"name": "A"}]
)
async def test_invalid_user_is_rejected(client: Client, user: dict[str, object]) -> None:
    """A valid user without an ID receives one."""
    assert "error" in await client.sim("users", **user)
    assert (await client.sim("users", email="c@d.example"))["user_id"].startswith("u-")
