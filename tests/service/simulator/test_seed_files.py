"""Users and meetings that are there at the start."""

import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from support.zoom_app import Client
from zoom_simulator import Simulator, SimulatorOptions, seed_files

GOOD = """
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


async def test_users_and_meetings_are_there_at_the_start_and_after_a_reset() -> None:
    """The users of the file replace the usual ones, and their meetings are as written, even in the past."""
    seed = seed_files.parse(GOOD, "seed.toml")
    options = SimulatorOptions(port=0, users=seed.users, meetings=seed.meetings)
    async with Simulator(options) as simulator, aiohttp.ClientSession() as session:
        client = Client(simulator, session)
        for _ in range(2):
            await client.consent(user="ada@example.com")
            _, meeting = await client.api("GET", "/meetings/81234500001")
            assert (meeting["topic"], meeting["start_time"]) == ("Notes", "2026-01-05T09:00:00Z")
            _, other = await client.api("GET", "/meetings/81234567897")
            assert [row["start_time"] for row in other["occurrences"]] == [
                f"2026-01-0{day}T09:00:00Z" for day in (5, 6, 7)
            ]
            assert (await client.api("DELETE", "/meetings/81234500001"))[0] == 204
            await client.sim("reset")
        async with session.get(f"{simulator.url}/_sim/users") as answer:
            assert [user["email"] for user in await answer.json()] == [
                "ada@example.com",
                "charles@example.com",
            ]


async def test_a_new_meeting_never_takes_the_id_of_a_seeded_one() -> None:
    """Ids that the file gave are not given again."""
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
        ("users = 5", ["1: users must be tables: write [[users]]"]),
        ("[user]\nemail = 'x'", ["1: user is not known: write [[users]]"]),
        ("[[users]]\nfirst_name = 'A'", ["1: users[1].email must be an address: write email ="]),
        ("[[users]]\nemail = 'nobody'", ["2: users[1].email must be an address"]),
        (f"{USER}{USER}", ["4: users[2].email is another user's", "3: users[2].user_id is another user's"]),
        (f"{USER}fist_name = 'A'", ["3: users[1].fist_name is not known: write first_name"]),
        (f"{USER}colour = 'red'", ["3: users[1].colour is not known: write one of email, user_id"]),
        (f"{USER}licensed = 1", ["3: users[1].licensed must be true or false: write licensed = true"]),
        (f"{USER}timezone = 'Mars'", ["3: users[1].timezone 'Mars' is unknown: write an IANA name"]),
        (f"{USER}last_name = 7", ["3: users[1].last_name must be text"]),
        (f"{MEETING}duration = 0", ["4: users[1].meetings[1].duration cannot be used: write duration = 60"]),
        (f"{MEETING}start_time = 'soon'", ["4: users[1].meetings[1].start_time cannot be used: write"]),
        (f"{MEETING}start_time = 2026-01-05", ["4: users[1].meetings[1].start_time cannot be used: write"]),
        (f"{MEETING}id = 5", ["4: users[1].meetings[1].id cannot be used: write id = 81234500001"]),
        (f"{MEETING}titel = 'x'", ["4: users[1].meetings[1].titel is not known"]),
        (
            f"{MEETING}type = 8\nrecurrence = {{ type = 9 }}",
            ["5: users[1].meetings[1].recurrence.type cannot be used"],
        ),
        (f"{USER}meetings = [ 5 ]", ["3: meetings must be tables: write [[users.meetings]]"]),
        (
            f"{USER}[[users.meetings]]\n[[users.meetings]]\ntopic = 5\ntype = 7",
            [
                "5: users[1].meetings[2].topic cannot be used: write topic =",
                "6: users[1].meetings[2].type cannot be used: write type = 2",
            ],
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, problems: list[str]) -> None:
    """Every problem names line and field and says what to write instead."""
    with pytest.raises(seed_files.SeedFileError) as raised:
        seed_files.parse(text, "seed.toml")
    found = raised.value.problems
    assert len(found) == len(problems), found
    for told, problem in zip(found, problems, strict=True):
        assert told.startswith(f"seed.toml:{problem}")


@pytest.mark.parametrize("command", [["zoom_simulator"], ["zoomgate_server", "simulator"]])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"\xff", "is not UTF-8"),
        (b"users =", "is no TOML"),
        (b"[[users]]\nemail = 5\n", "seed.toml:2: users[1].email"),
    ],
)
def test_a_wrong_file_refuses_the_start(
    tmp_path: Path, command: list[str], content: bytes | None, said: str
) -> None:
    """Both commands end with 2 and say what is wrong in a sentence."""
    if content is not None:
        (tmp_path / "seed.toml").write_bytes(content)
    found = subprocess.run(
        [sys.executable, "-m", *command, "--listen", "127.0.0.1:0", "--seed-file", "seed.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert said in found.stderr
    assert found.stdout == ""
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    "user", [{}, {"email": 5}, {"email": "x"}, {"email": "a@b.example", "timezone": "Mars"}, {"name": "A"}]
)
async def test_wrong_users_are_refused(client: Client, user: dict[str, object]) -> None:
    """A user that cannot be is refused, and a short one gets an id."""
    assert "error" in await client.sim("users", **user)
    assert (await client.sim("users", email="c@d.example"))["user_id"].startswith("u-")
