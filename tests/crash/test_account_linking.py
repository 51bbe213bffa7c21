"""Tests for processes that are killed, stopped or shut down while storing the tokens of a consent, a supplied refresh token or an import.

The operation of each user pauses at a different point (`launcher.LINKING_POINTS`), so that one process is interrupted at all points at the
same time.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from crash.cluster import (
    NOT_CONNECTED,
    OK,
    REAUTH,
    REFRESH_IN_PROGRESS,
    UNAVAILABLE,
    CallStatus,
    Cluster,
    Interruption,
    Server,
    StoreKind,
    cluster,
    until,
    until_async,
)
from crash.launcher import DEFERRAL_POINTS, LINKING_POINTS, REFRESHES
from crash.table import Table
from zoom_simulator.faults import Fault
from zoom_simulator.rules import Rules
from zoomgate.v1 import auth_service_pb2 as auth

pytestmark = pytest.mark.timeout(240)

REDIRECT_URI = "http://127.0.0.1/oauth/callback"
ENVIRON = {"ZOOMGATE_REDIRECT_URI": REDIRECT_URI, "ZOOMGATE_MAX_CONCURRENT_EXCHANGES": "1000"}
OUTCOME_UNKNOWN = ("UNKNOWN", "ZOOM_OUTCOME_UNKNOWN")
ZOOM_UNAVAILABLE = ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
CODE_REFUSED = ("INVALID_ARGUMENT", "CODE_REFUSED")

NOT_SENT = ("after_mark", "after_registration")
"""Points at which the code or refresh token has not been sent to Zoom."""

ONLY_IN_MEMORY = "after_exchange"
STORED = LINKING_POINTS[LINKING_POINTS.index("after_commit") :]
"""Points at which the token pair is in the store."""

SUPPLIED = ("supplied", "import")
"""Methods that supply a refresh token of a different system. The others consent."""

METHODS = ("consent", "reconsent", "return", *SUPPLIED)
"""`reconsent` is the consent of a connected user, and `return` that of a disconnected user. The other users are new."""

REGISTERED = ("reconsent", "return")
"""Methods for users with a record, in which the exchange is registered."""


def users_of(method: str, points: Iterable[str] = LINKING_POINTS) -> dict[str, str]:
    """Return a user for each point that the method passes, and the points."""
    return {
        f"{method}-{point.replace('_', '-')}@example.com": point
        for point in points
        if method in REGISTERED or point != "after_registration"
    }


def method_of(user: str) -> str:
    """Return the method by which a user is connected."""
    return user.partition("-")[0]


PLAN = {user: point for method in METHODS for user, point in users_of(method).items()}


@dataclass
class Linking:
    """Two servers, of which the first one has paused the operations of the users.

    Attributes:
        secrets: The authorization code or the refresh token of each user.
        calls: The paused call of each user.
    """

    running: Cluster
    first: Server
    other: Server
    secrets: dict[str, str] = field(default_factory=dict)
    calls: dict[str, asyncio.Task[CallStatus]] = field(default_factory=dict)

    async def pause(self, plan: dict[str, str]) -> None:
        """Start to connect the users through the first server, and wait until each operation has reached its point."""
        self.calls = {user: asyncio.create_task(self.link(self.first, user)) for user in plan}
        await self.first.reached(plan)

    async def link(self, server: Server, user: str) -> CallStatus:
        """Connect a user with the user's code or refresh token, and return the status."""
        secret, method = self.secrets[user], method_of(user)
        if method not in SUPPLIED:
            return await server.call("CreateToken", auth.CreateTokenRequest(user_email=user, code=secret))
        request = auth.RequestTokenRequest if method == "supplied" else auth.ImportConnectionRequest
        name = "RequestToken" if method == "supplied" else "ImportConnection"
        return await server.call(name, request(user_email=user, refresh_token=secret))

    async def links(self, server: Server, users: Iterable[str]) -> dict[str, CallStatus]:
        """Connect several users concurrently, and return the status of each call by user."""
        emails = list(users)
        statuses = await asyncio.gather(*(self.link(server, user) for user in emails))
        return dict(zip(emails, statuses, strict=True))

    async def consents(self, server: Server, users: Iterable[str]) -> dict[str, CallStatus]:
        """Connect users with new codes or refresh tokens, and return the status of each call by user."""
        self.secrets |= {user: new_secret(self.running, user) for user in users}
        return await self.links(server, users)

    async def disconnects(self, server: Server, users: Iterable[str]) -> dict[str, CallStatus]:
        """Disconnect users, and return the status of each call by user."""
        emails = list(users)
        requests = (auth.DeleteConnectionRequest(user_email=user) for user in emails)
        statuses = await asyncio.gather(*(server.call("DeleteConnection", request) for request in requests))
        return dict(zip(emails, statuses, strict=True))

    async def continue_after(self, interruption: Interruption) -> dict[str, CallStatus]:
        """Let the paused operations, or those of the next process, finish. Return the status of each call by user."""
        if interruption is Interruption.KILL:
            self.first.send(signal.SIGKILL)
            assert await self.first.wait() == -signal.SIGKILL
            self.first = await self.running.start("first", environ=ENVIRON)
        else:
            self.first.plan({})
            self.first.send(signal.SIGCONT)
        statuses = dict(zip(self.calls, await asyncio.gather(*self.calls.values()), strict=True))
        await until(lambda: not self.running.journal_entries())
        return statuses


def new_secret(running: Cluster, user: str) -> str:
    """Let a user consent in the Zoom simulator; return a code, or the refresh token that a different system has received."""
    if method_of(user) in SUPPLIED:
        return running.grant(user).refresh_token
    return running.code(user, REDIRECT_URI)


@asynccontextmanager
async def two_servers(
    store_kind: StoreKind, store_uri: str, directory: Path, plan: dict[str, str], rules: Rules = Rules()
) -> AsyncIterator[Linking]:
    """Start two servers, and let the users consent in the Zoom simulator. In the first server, each user's linking pauses."""
    names = [user.partition("@")[0] for user in plan]
    async with cluster(store_kind, directory, names, store_uri, rules) as running:
        first, other = await asyncio.gather(
            running.start("first", plan, environ=ENVIRON), running.start("other", environ=ENVIRON)
        )
        linking = Linking(running, first, other)
        known = [user for user in plan if method_of(user) in REGISTERED]
        gone = [user for user in known if method_of(user) == "return"]
        await running.connect(known, expired=False)
        assert set((await linking.disconnects(other, gone)).values()) <= {OK}
        await until_async(lambda: running.is_erased(gone))
        linking.secrets = {user: new_secret(running, user) for user in plan}
        yield linking


@asynccontextmanager
async def paused_linking(
    store_kind: StoreKind, store_uri: str, directory: Path, plan: dict[str, str], rules: Rules = Rules()
) -> AsyncIterator[Linking]:
    """Start two servers, and pause the linking of each user at the user's point in the first one."""
    async with two_servers(store_kind, store_uri, directory, plan, rules) as linking:
        await linking.pause(plan)
        yield linking


def has_reached(server: Server, point: str) -> bool:
    """Return whether the linking of any user has reached a point."""
    return point in {reached for _, _, reached in server.trace()}


async def are_active(running: Cluster, users: Iterable[str]) -> bool:
    """Return whether all users are connected."""
    return {await running.state(user) for user in users} <= {"ACTIVE"}


async def test_kill_during_account_linking_loses_only_tokens_not_in_the_journal(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, table: Table
) -> None:
    """Only users whose tokens were only in the memory of the killed process must consent again, and the new consent succeeds.

    A repetition of the call by another process returns the stored connection, and sends the code or refresh token to Zoom only if the
    killed process cannot have sent it.
    """
    async with paused_linking(store_kind, store_uri, tmp_path, PLAN) as linking:
        running, other = linking.running, linking.other
        kept = [user for user, point in PLAN.items() if point not in (*NOT_SENT, ONLY_IN_MEMORY)]
        unsent = [user for user, point in PLAN.items() if point in NOT_SENT]
        lost = [user for user, point in PLAN.items() if point == ONLY_IN_MEMORY]
        interrupted = await linking.continue_after(Interruption.KILL)
        assert set(interrupted.values()) == {UNAVAILABLE}
        await until_async(lambda: are_active(running, kept))
        exchanged = exchanges(running)
        assert set((await linking.links(other, kept)).values()) == {OK}
        assert set((await other.tokens(kept)).values()) == {OK}
        assert exchanges(running) == exchanged
        assert await running.lost(kept) == set()
        assert audited(running, "connection.stored") >= set(kept)
        for user in kept:
            record = await running.record(user)
            assert record is not None
            assert record.pending_attempts == ()

        await asyncio.sleep(REFRESHES.lease)
        repeated = await linking.links(other, [*unsent, *lost])
        for user, status in repeated.items():
            if method_of(user) not in SUPPLIED:
                assert status == OUTCOME_UNKNOWN, user
            elif (
                user in unsent or method_of(user) == "import"
            ):  # an import reports a rejected token in its result
                assert status == OK, user
            else:
                assert status == REAUTH, user
        connected = [user for user in unsent if method_of(user) == "reconsent"]
        assert set((await other.tokens(connected)).values()) == {OK}
        assert await running.lost(lost) == set(lost)
        row = table.row("SIGKILL at consent and import", store_kind)
        row.runs, row.losses, row.expected = len(PLAN), len(await running.lost(lost)), len(lost)
        row.failed = sum(status != OK for status in (*interrupted.values(), *repeated.values()))
        again = [user for user, status in repeated.items() if status != OK or user in lost]
        assert set((await linking.consents(linking.first, again)).values()) == {OK}
        assert await running.lost(PLAN) == set()


async def test_kill_during_recovery_of_linked_accounts_loses_no_token(
    store_kind: StoreKind, store_uri: str, tmp_path: Path
) -> None:
    """The process that recovers the journal is killed at the next point, again and again."""
    points = LINKING_POINTS[LINKING_POINTS.index("after_journal") :]
    plan = {user: "after_journal" for method in METHODS for user in users_of(method, points)}
    async with paused_linking(store_kind, store_uri, tmp_path, plan) as linking:
        linking.other.send(signal.SIGKILL)  # with SQLite, it would recover the journal
        for point in points[1:]:
            linking.first.send(signal.SIGKILL)
            assert await linking.first.wait() == -signal.SIGKILL
            linking.first = await linking.running.start("first", dict.fromkeys(plan, point), environ=ENVIRON)
            await until(partial(has_reached, linking.first, point))
        linking.first.send(signal.SIGKILL)
        await asyncio.gather(*linking.calls.values())
        await linking.running.start("first", environ=ENVIRON)
        await until_async(lambda: are_active(linking.running, plan))
        assert await linking.running.lost(plan) == set()


async def test_consent_on_another_process_during_account_linking_is_preserved(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, rules: Rules, interruption: Interruption
) -> None:
    """The valid pair is stored, whichever consent is the later one for Zoom, and no valid pair is revoked before the disconnection."""
    plan = users_of("consent") | users_of("reconsent") | users_of("return")
    async with paused_linking(store_kind, store_uri, tmp_path, plan, rules) as linking:
        running, other = linking.running, linking.other
        if interruption is Interruption.STOP:
            linking.first.send(signal.SIGSTOP)
        assert set((await linking.consents(other, plan)).values()) == {OK}
        if interruption is Interruption.STOP:
            await asyncio.sleep(REFRESHES.lease)
        statuses = await linking.continue_after(interruption)
        assert set(statuses.values()) <= {OK, UNAVAILABLE, REAUTH, ZOOM_UNAVAILABLE}
        assert await are_active(running, plan)
        assert set((await other.tokens(plan)).values()) == {OK}
        for user, point in plan.items():
            is_lost = interruption is Interruption.KILL and point == ONLY_IN_MEMORY
            valid = valid_grants(running, user)
            assert len(valid) - await retained_grants(running, user) == (
                is_lost and rules.concurrent_grants
            ), user
        assert set((await linking.disconnects(other, plan)).values()) == {OK}
        await until_async(lambda: running.is_erased(plan))
        assert [user for user in plan if valid_grants(running, user)] == []


async def test_user_disconnected_during_account_linking_stays_disconnected(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, rules: Rules, interruption: Interruption
) -> None:
    """The pair of the running consent is revoked, too."""
    plan = users_of("reconsent")
    async with paused_linking(store_kind, store_uri, tmp_path, plan, rules) as linking:
        running, other = linking.running, linking.other
        if interruption is Interruption.STOP:
            linking.first.send(signal.SIGSTOP)
        assert set((await linking.disconnects(other, plan)).values()) == {OK}
        if interruption is Interruption.STOP:
            await asyncio.sleep(REFRESHES.lease)
        statuses = await linking.continue_after(interruption)
        await until_async(lambda: running.is_erased(plan))
        for user, point in plan.items():
            assert await running.state(user) == "DISCONNECTED REVOKED", user
            is_lost = interruption is Interruption.KILL and point == ONLY_IN_MEMORY
            assert not valid_grants(running, user) or (is_lost and rules.concurrent_grants), user
            if interruption is not Interruption.KILL:
                expected = {OK} if point in STORED else {NOT_CONNECTED, REAUTH, ZOOM_UNAVAILABLE}
                assert statuses[user] in expected, user
        assert {status for status, _ in (await other.tokens(plan)).values()} == {"FAILED_PRECONDITION"}


async def test_unidentified_pair_of_a_killed_process_is_linked_later(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, interruption: Interruption
) -> None:
    """Zoom issues a pair, but cannot name its user until the process has given up. No process sends the code or token again."""
    plan = {user: point for method in METHODS for user, point in users_of(method, DEFERRAL_POINTS).items()}
    async with two_servers(store_kind, store_uri, tmp_path, plan) as linking:
        running, first, other = linking.running, linking.first, linking.other
        for user in plan:
            running.zoom.faults.add(Fault("users_me", "status", times=3, user=user))
        await linking.pause(plan)
        exchanged = exchanges(running)
        if interruption is Interruption.STOP:
            first.send(signal.SIGSTOP)
            await asyncio.sleep(REFRESHES.lease)
        assert set((await linking.links(other, plan)).values()) <= {OK, ZOOM_UNAVAILABLE}
        await linking.continue_after(interruption)
        await until_async(lambda: are_active(running, plan))
        assert set((await linking.links(other, plan)).values()) == {OK}
        assert exchanges(running) == exchanged
        assert await running.lost(plan) == set()


async def test_same_code_or_refresh_token_on_two_processes_is_sent_once(
    store_kind: StoreKind, store_uri: str, tmp_path: Path
) -> None:
    """One process exchanges the code or token. The other one waits for the result, and returns it."""
    plan = {f"{method}-{number}@example.com": "" for method in METHODS for number in range(4)}
    async with two_servers(store_kind, store_uri, tmp_path, plan) as linking:
        exchanged = exchanges(linking.running)
        servers = (linking.first, linking.other)
        pending = set(plan)
        while pending:
            responses = await asyncio.gather(*(linking.links(server, pending) for server in servers))
            statuses = {status for response in responses for status in response.values()}
            assert statuses <= {OK, REFRESH_IN_PROGRESS}
            pending = {user for user in pending for response in responses if response[user] != OK}
        assert exchanges(linking.running) - exchanged == len(plan)
        assert await linking.running.lost(plan) == set()


async def test_shutdown_waits_until_linked_accounts_are_stored(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, table: Table
) -> None:
    """The process exits with 0 after all tokens are stored, even if all callers have canceled their calls."""
    plan = {user: point for user, point in PLAN.items() if point not in NOT_SENT}
    async with paused_linking(store_kind, store_uri, tmp_path, plan) as linking:
        running, first = linking.running, linking.first
        for call in linking.calls.values():
            call.cancel()
        interrupted = await asyncio.gather(*linking.calls.values(), return_exceptions=True)
        first.send(signal.SIGTERM)
        await until(lambda: first.log("service.draining") != [])
        assert first.process.poll() is None
        first.plan({})
        assert await first.wait() == 0
        assert set((await linking.other.tokens(plan)).values()) == {OK}
        row = table.row("SIGTERM at consent and import", store_kind)
        row.runs, row.losses, row.failed = len(plan), len(await running.lost(plan)), len(interrupted)
        assert row.losses == 0


def exchanges(running: Cluster) -> int:
    """Return how many codes and refresh tokens were sent to Zoom."""
    counters = running.zoom.zoom.counters
    kinds = ("authorization_code", "refresh_token")
    return sum(counters[f"token.{kind}.{outcome}"] for kind in kinds for outcome in ("issued", "refused"))


def audited(running: Cluster, action: str) -> set[str]:
    """Return the users for whom an action succeeded according to the audit trail."""
    return {
        row["user"] for row in running.audit_events() if row["action"] == action and row["outcome"] == "ok"
    }


def valid_grants(running: Cluster, user: str) -> set[str]:
    """Return the refresh tokens of a user that Zoom accepts."""
    zoom = running.zoom.zoom
    user_id = zoom.users[user].user_id
    return {
        token
        for token, grant in zoom.refresh_tokens.items()
        if grant.user.user_id == user_id and not grant.revoked and token == grant.refresh_token
    }


async def retained_grants(running: Cluster, user: str) -> int:
    """Return how many of the refresh tokens of a user that Zoom accepts are in the store; check that one of them is served."""
    record = await running.record(user)
    assert record is not None
    assert record.tokens is not None
    valid = valid_grants(running, user)
    assert record.tokens.refresh_token in valid
    return len(valid & {pair.refresh_token for pair in (*record.pairs, *record.superseded_pairs)})
