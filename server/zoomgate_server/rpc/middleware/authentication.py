"""Finds out who calls, and refuses who may not.

The order is: credential, method, the request's bytes, the user that the request names. Fields come after that, in the services; a request
whose user is no canonical address goes on to them, since they refuse exactly that, and nobody can be found under such a name.
"""

import functools
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from zoomgate_server.audit.event import AuditEvent, AuditSink
from zoomgate_server.call_context import (
    Call,
    current_call,
    current_metadata,
    current_permit,
    current_request_id,
)
from zoomgate_server.clock import Clock
from zoomgate_server.errors import (
    CallerNotAllowed,
    CallerUnauthenticated,
    CodeRefused,
    HeaderNotAllowed,
    InvalidPath,
    InvalidState,
    MalformedRequest,
    ZoomgateError,
)
from zoomgate_server.identity import Principal, Role
from zoomgate_server.rpc.middleware import access_policy
from zoomgate_server.rpc.middleware.error_status import reason_of
from zoomgate_server.rpc.middleware.pipeline import Context, Method, Respond
from zoomgate_server.user_email import is_canonical

AUTHORIZATION = "authorization"
MEMBER_TOKEN = "zoomgate-member-token"
DEFAULT_SECONDS = 30.0
"""Time for a call whose caller sets no deadline."""

MAX_SECONDS = 60.0
"""Time for any call that is no stream."""

MAX_USERS = 1000
"""Users that one request may name."""

AUDITED_REJECTIONS = (CallerNotAllowed, CodeRefused, HeaderNotAllowed, InvalidPath, InvalidState)
"""Refusals behind the authentication that an auditor wants to see: somebody tried what he may not."""

_BEARER = re.compile(r"[Bb]earer ([A-Za-z0-9._~+/=-]{16,512})", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}", re.ASCII)


@dataclass(frozen=True, slots=True)
class StaticKey:
    """A key that an operator gave somebody; only its SHA-256 is known here.

    Attributes:
        sha256: 64 lower-case hex digits.
        principal: Who has it.
    """

    sha256: str
    principal: Principal


class CallerKeys:
    """The static keys of all callers."""

    def __init__(self, keys: Iterable[StaticKey]) -> None:
        self._keys = {bytes.fromhex(key.sha256): key.principal for key in keys}
        self._seen: dict[str, Principal] = {}

    def find(self, key: str) -> Principal | None:
        """Give who has a key. The look-up goes by its digest, so its timing tells nothing about the keys."""
        return self._keys.get(hashlib.sha256(key.encode()).digest())

    def bearer(self, credential: str) -> Principal | None:
        """Give who has the key of a bearer credential.

        Credentials that were accepted stay in memory, at most two spellings of each key, so that each is hashed once.
        """
        known = self._seen.get(credential)
        if known is not None:
            return known
        found = _BEARER.fullmatch(credential)
        principal = None if found is None else self.find(found.group(1))
        if principal is not None:
            self._seen[credential] = principal
        return principal


class Authentication:
    """The innermost stage: nothing behind it runs for somebody unknown.

    Args:
        keys: The callers' keys.
        anonymous: Who a call without any credential is from; None refuses such calls.
        clock: Time.
        audit: Hears of refusals.
    """

    def __init__(
        self, *, keys: CallerKeys, anonymous: Principal | None, clock: Clock, audit: AuditSink
    ) -> None:
        self._keys = keys
        self._anonymous = anonymous
        self._clock = clock
        self._audit = audit

    def wrap(self, method: Method, respond: Respond) -> Respond:
        """Put the check in front of a method."""
        path, decode, name = method.path, method.decode, method.name
        if path in access_policy.OPEN_METHODS:

            async def serve_openly(request: Any, context: Context) -> Any:
                return await respond(_decoded(method, request), context)

            return serve_openly

        async def check(request: Any, context: Context) -> Any:
            principal: Principal | None = None
            user_email = ""
            try:
                credentials, members = _credentials(current_metadata.get())
                principal = self._caller(credentials)
                if members:
                    principal = self._with_member(principal, members)
                row = access_policy.check_method(principal, path)
                message = request if decode is None else _decoded(method, request)
                user_emails = _users(message, row.user_field)
                for user_email in user_emails:
                    access_policy.check_user(principal, path, user_email)
            except (CallerUnauthenticated, CallerNotAllowed) as refusal:
                self._refused(principal, refusal, name, user_email, context)
                raise
            left = context.time_remaining()
            seconds = DEFAULT_SECONDS if left is None else min(left, MAX_SECONDS)
            user_email = user_emails[0] if len(user_emails) == 1 else ""
            call = Call(
                current_request_id.get(""), principal, self._clock.monotonic() + seconds, user_email, name
            )
            current_call.set(call)
            if method.streams:
                current_permit.set(functools.partial(self._permitted, credentials, members, path))
            try:
                return await respond(message, context)
            except AUDITED_REJECTIONS as refusal:
                self._refused(principal, refusal, name, user_email, context)
                raise

        return check

    def _permitted(self, credentials: list[Any], members: list[Any], path: str, user_email: str) -> bool:
        """Decide anew, while a stream runs, whether its caller may call still and be told of a user.

        Raises:
            CallerUnauthenticated, CallerNotAllowed: It may no longer call at all.
        """
        principal = self._caller(credentials)
        if members:
            principal = self._with_member(principal, members)
        access_policy.check_method(principal, path)
        return access_policy.may_act_for(principal, path, user_email)

    def _caller(self, credentials: list[Any]) -> Principal:
        if not credentials:
            if self._anonymous is None:
                raise _unauthenticated("no authorization metadata")
            return self._anonymous
        if len(credentials) > 1:
            raise _unauthenticated("several authorization entries")
        credential = credentials[0] if isinstance(credentials[0], str) else ""
        principal = self._keys.bearer(credential)
        if principal is None:
            well_formed = _BEARER.fullmatch(credential) is not None
            raise _unauthenticated("unknown key" if well_formed else "authorization is no bearer credential")
        return principal

    def _with_member(self, principal: Principal, members: list[Any]) -> Principal:
        """Bind the call to the member whose credential a service forwards, too."""
        if len(members) > 1 or not isinstance(members[0], str) or not _KEY.fullmatch(members[0]):
            raise _unauthenticated("the member token is malformed")
        member = self._keys.find(members[0])
        if member is None or Role.MEMBER not in member.roles:
            raise _unauthenticated("the member token is no member's")
        if Role.SERVICE not in principal.roles:
            raise CallerNotAllowed("Only a service may forward a member's token")
        return replace(principal, on_behalf_of=member)

    def _refused(
        self,
        principal: Principal | None,
        refusal: ZoomgateError,
        method: str,
        user_email: str,
        context: Context,
    ) -> None:
        member = None if principal is None else principal.on_behalf_of
        self._audit(
            AuditEvent(
                action="call.rejected",
                outcome=reason_of(refusal),
                principal="" if principal is None else principal.name,
                on_behalf_of="" if member is None else member.name,
                user_email=user_email,
                request_id=current_request_id.get(""),
                role="" if principal is None else principal.role_names,
                method=method,
                details={"peer": context.peer()},
            )
        )


def _credentials(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[list[Any], list[Any]]:
    """Give the caller's credentials and those of the members that it forwards."""
    credentials, members = [], []
    for key, value in metadata:
        if key == AUTHORIZATION:
            credentials.append(value)
        elif key == MEMBER_TOKEN:
            members.append(value)
    return credentials, members


def _decoded(method: Method, request: Any) -> Any:
    """Decode a request's bytes.

    Raises:
        MalformedRequest: They are no message of the method's type.
    """
    if method.decode is None:
        return request
    try:
        return method.decode(request)
    except Exception:  # noqa: BLE001 - protobuf's runtimes differ in what they raise, and the text is theirs
        raise MalformedRequest(
            "The request's bytes are no valid message of this method: check that your stubs fit the server's contract,"
            " and send nothing that nests deeper than 30 levels",
            metadata={"type": method.request_type},
        ) from None


def _users(message: Any, field: str) -> list[str]:
    """Give the canonical addresses that a request names; the services refuse others, and more than they take."""
    if not field:
        return []
    named = getattr(message, field)
    if isinstance(named, str):
        return [named] if is_canonical(named) else []
    return [user_email for user_email in named[:MAX_USERS] if is_canonical(user_email)]


def _unauthenticated(why: str) -> CallerUnauthenticated:
    return CallerUnauthenticated("The credential is missing or not accepted", internal=why)
