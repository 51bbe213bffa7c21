"""Authentication and authorization of calls.

Checks run in this order: credential, method, encoding of the request, and users named in the request. The services validate all other
fields. Invalid addresses are skipped here, because the services reject them and no connection is stored under them.
"""

import contextlib
import functools
import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zoomgate_server.audit.event import Actor, AuditEvent, AuditSink
from zoomgate_server.call_context import (
    MAX_USERS,
    Call,
    current_access_check,
    current_call,
    current_metadata,
    current_request_id,
)
from zoomgate_server.clock import Clock
from zoomgate_server.errors import (
    CallerNotAllowed,
    CallerUnauthenticated,
    CodeRefused,
    DeadlineExceeded,
    HeaderNotAllowed,
    InvalidPath,
    InvalidRequest,
    InvalidState,
    ZoomgateError,
)
from zoomgate_server.identity import Principal, Role, UserPatterns
from zoomgate_server.rpc.middleware import access_policy
from zoomgate_server.rpc.middleware.error_status import reason_of
from zoomgate_server.rpc.middleware.pipeline import Context, Handler, Method
from zoomgate_server.user_email import InvalidUserEmail, canonical_email
from zoomgate_server.zoom.client import unavailable

AUTHORIZATION = "authorization"
MEMBER_TOKEN = "zoomgate-member-token"
MEMBER_EMAIL = "zoomgate-member-email"
AUDITED_REJECTIONS = (CallerNotAllowed, CodeRefused, HeaderNotAllowed, InvalidPath, InvalidState)
"""Errors after authentication that are audited because they may indicate attempts at unauthorized access."""

_BEARER = re.compile(r"[Bb]earer ([A-Za-z0-9._~+/=-]{16,512})", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}", re.ASCII)

_Entry = tuple[str, str | bytes]
"""An entry of the metadata."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The time limits of calls, in seconds.

    Attributes:
        default_limit: Time limit of unary calls without a deadline.
        max_limit: Maximum time limit of unary calls. Streams have the caller's deadline.
        response_margin: Time before the caller's deadline that is reserved for returning the response.
    """

    default_limit: float = 30.0
    max_limit: float = 60.0
    response_margin: float = 0.2


class CallerKeys:
    """Lookup of callers by their static keys. `keys` maps the SHA-256 of each key, in lower-case hex digits, to its caller."""

    def __init__(self, keys: Mapping[str, Principal]) -> None:
        self._keys = keys
        self._accepted: dict[str, Principal] = {}

    def __len__(self) -> int:
        """Return the number of callers."""
        return len({principal.name for principal in self._keys.values()})

    def replace(self, keys: Mapping[str, Principal]) -> None:
        """Accept these keys only, also in running streams."""
        self._keys, self._accepted = keys, {}

    def find(self, key: str) -> Principal | None:
        """Return the caller with a key, or None. Only digests are compared, so timing reveals nothing about the keys."""
        return self._keys.get(hashlib.sha256(key.encode()).hexdigest())

    def bearer(self, credential: str) -> Principal | None:
        """Return the caller with a bearer credential, or None. Accepted credentials are cached, since hashing delays every call."""
        principal = self._accepted.get(credential)
        if principal is None and (match := _BEARER.fullmatch(credential)):
            principal = self.find(match.group(1))
            if principal is not None:
                self._accepted[credential] = principal
        return principal


class Authentication:
    """The innermost stage: rejects unauthenticated and unauthorized calls.

    Calls without a credential are made by `anonymous`, or rejected if it is None.
    """

    def __init__(
        self,
        *,
        keys: CallerKeys,
        anonymous: Principal | None,
        clock: Clock,
        audit: AuditSink,
        timing: Timing = Timing(),
    ) -> None:
        self._keys = keys
        self._anonymous = anonymous
        self._clock = clock
        self._audit = audit
        self._timing = timing

    def wrap(self, method: Method, respond: Handler) -> Handler:
        """Add the checks to a method."""
        path, name = method.path, method.name
        if path in access_policy.OPEN_METHODS:

            async def respond_without_check(request: Any, context: Context) -> Any:
                return await respond(await method.receive(request, context), context)

            return respond_without_check

        async def check(request: Any, context: Context) -> Any:
            principal: Principal | None = None
            user_email = ""
            credentials, members = _credentials(current_metadata.get())
            remaining = context.time_remaining()
            deadline = self._deadline(remaining, streams=method.streams)
            is_limited = not method.streams and (remaining is None or remaining > self._timing.max_limit)
            try:
                principal = self._authenticate(credentials)
                if members:
                    principal = self._with_member(principal, members)
                call = Call(current_request_id.get(""), principal, deadline, method=name)
                current_call.set(call)
                policy = access_policy.check_method(principal, path)
                message = await method.receive(request, context)
                if policy.defaults_to_member and principal.member is not None:
                    message.user_email = message.user_email or principal.member.email
                named = [_users(message, field) for field in policy.user_fields]
                for user_email in itertools.chain(*named):
                    access_policy.check_user(principal, path, user_email)
            except (CallerUnauthenticated, CallerNotAllowed) as error:
                self._audit_rejection(principal, error, name, user_email, context)
                raise
            user_email = named[0][0] if named and len(named[0]) == 1 else ""
            if user_email:
                current_call.set(call._replace(user_email=user_email))
            if method.streams:
                current_access_check.set(functools.partial(self._recheck, credentials, members, path))
            try:
                return await respond(message, context)
            except DeadlineExceeded as error:
                # if the time limit was not the caller's, Zoom is too slow
                raise (unavailable() if is_limited else error) from None
            except AUDITED_REJECTIONS as error:
                self._audit_rejection(principal, error, name, user_email, context)
                raise

        return check

    def _deadline(self, remaining: float | None, *, streams: bool) -> float:
        """Return the time by which the work must be finished, on the monotonic clock."""
        timing = self._timing
        if streams:
            seconds = math.inf if remaining is None else remaining
        else:
            seconds = timing.default_limit if remaining is None else min(remaining, timing.max_limit)
        return self._clock.monotonic() + seconds - timing.response_margin

    def _recheck(
        self, credentials: Sequence[str | bytes], members: Sequence[_Entry], path: str, user_email: str
    ) -> bool:
        """Check the credential and policy of a running stream again, and return whether the caller may see a user."""
        principal = self._authenticate(credentials)
        if members:
            principal = self._with_member(principal, members)
        access_policy.check_method(principal, path)
        return access_policy.may_act_for(principal, path, user_email)

    def _authenticate(self, credentials: Sequence[str | bytes]) -> Principal:
        if not credentials:
            if self._anonymous is None:
                raise _unauthenticated("missing authorization metadata")
            return self._anonymous
        if len(credentials) > 1:
            raise _unauthenticated("multiple authorization entries")
        credential = credentials[0] if isinstance(credentials[0], str) else ""
        principal = self._keys.bearer(credential)
        if principal is None:
            raise _unauthenticated("unknown key" if _BEARER.fullmatch(credential) else "malformed key")
        return principal

    def _with_member(self, principal: Principal, members: Sequence[_Entry]) -> Principal:
        """Return the principal, including the member on whose behalf it calls."""
        entry, value = members[0]
        if len(members) > 1 or not isinstance(value, str):
            raise _unauthenticated("malformed member entry")
        limited = (
            replace(principal, on_behalf_of=self._member(value))
            if entry == MEMBER_TOKEN
            else _limited_to_member(principal, value)
        )
        if Role.SERVICE not in principal.roles:
            text = "Only a service may call on behalf of a member"
            raise CallerNotAllowed(text, internal=f"role of {principal.name} is not service")
        return limited

    def _member(self, token: str) -> Principal:
        """Return the member with a token."""
        member = self._keys.find(token) if _KEY.fullmatch(token) else None
        if member is None or Role.MEMBER not in member.roles:
            raise _unauthenticated("the member token is unknown or does not belong to a member")
        return member

    def _audit_rejection(
        self,
        principal: Principal | None,
        error: ZoomgateError,
        method: str,
        user_email: str,
        context: Context,
    ) -> None:
        actor = Actor.of(principal, method, current_request_id.get(""))
        details = {"peer": context.peer()}
        if error.internal:
            details["cause"] = error.internal
        self._audit(AuditEvent("call.rejected", reason_of(error), user_email, actor, details=details))


def _credentials(metadata: Iterable[_Entry]) -> tuple[list[str | bytes], list[_Entry]]:
    """Return the caller's credentials, and the entries that name a member."""
    credentials: list[str | bytes] = []
    members: list[_Entry] = []
    for key, value in metadata:
        if key == AUTHORIZATION:
            credentials.append(value)
        elif key in (MEMBER_TOKEN, MEMBER_EMAIL):
            members.append((key, value))
    return credentials, members


def _limited_to_member(principal: Principal, user_email: str) -> Principal:
    """Return the service, limited to a member that it has authenticated itself: to the member's address, and without tokens."""
    try:
        email = canonical_email(user_email)
    except InvalidUserEmail as invalid:
        raise InvalidRequest.of(MEMBER_EMAIL, invalid.message_for(user_email)) from None
    users = UserPatterns(addresses=frozenset({email} if principal.users.matches(email) else ()))
    roles = frozenset({Role.SERVICE})
    member = Principal(name=email, roles=roles, users=users, email=email, subject=email)
    return replace(
        principal, roles=roles, users=users, access_tokens=False, refresh_tokens=False, on_behalf_of=member
    )


def _users(message: Any, field: str) -> list[str]:
    """Return the valid addresses in a request field, in canonical form. The services reject invalid addresses and excess entries."""
    named = getattr(message, field)
    user_emails = []
    for text in (named,) if isinstance(named, str) else named[:MAX_USERS]:
        with contextlib.suppress(InvalidUserEmail):
            user_emails.append(canonical_email(text))
    return user_emails


def _unauthenticated(cause: str) -> CallerUnauthenticated:
    return CallerUnauthenticated("The credential is missing or invalid", internal=cause)
