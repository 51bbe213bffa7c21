"""Histories that broke earlier designs of the lifecycle, numbered as they were found.

Two of them cannot occur in the present data model: H16 (a placeholder of a consent in an empty store makes a refresh drop its pair), since
there are no placeholders, and one half of H3 and H10 to H12 (a decision looks at one of two records of a Zoom user), since a Zoom user has
one record. H15 (a first consent is written to an empty store, which then returns) is a documented loss.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from types import FunctionType

from model.lifecycle_mutants import Protocols
from model.lifecycle_world import DAY, SHIPPED, A, B, C, World, prepare
from zoomgate_server.connections.lifecycle.decisions import LinkResult
from zoomgate_server.connections.record import Cause, State
from zoomgate_server.connections.token_pair import TokenPair

Hole = Callable[[World], None]


def worlds(protocols: Protocols = SHIPPED) -> Iterator[World]:
    """Yield a world without disturbances for every combination of Zoom's rules."""
    for rules in product(range(3), range(2), (0, 2), range(3)):
        yield World(list(rules), protocols=protocols)


def run_hole(hole: Hole, protocols: Protocols = SHIPPED) -> None:
    """Run a written history under every combination of Zoom's rules, and check the invariants at the end."""
    for world in worlds(protocols):
        hole(world)
        world.finish()


def h01_killed_exchange_does_not_delay_the_revocation_forever(world: World) -> None:
    prepare(world, 1)
    world.run(world.disconnect(A))
    world.run(world.consent(A, "z1"), "ExchangeCode")
    world.crash(0)


def h02_exchange_waits_for_a_running_revocation(world: World) -> None:
    prepare(world, 1)
    world.run(world.disconnect(A))
    (revocation,) = world.sweep()
    world.run(revocation, "Revoke")
    world.run(world.consent(A, "z1"))
    world.run(revocation)


def h03_revocation_does_not_start_after_a_consent(world: World) -> None:
    prepare(world, 1)
    world.run(world.disconnect(A))
    (revocation,) = world.sweep()
    world.run(revocation, "Put")
    world.run(world.consent(A, "z1"))
    world.run(revocation)
    assert world.records["z1"].state is State.ACTIVE


def h04_pair_of_a_different_user_is_revoked_before_the_user_connects(world: World) -> None:
    world.run(world.consent(A, "z2"))
    (revocation,) = world.sweep()
    world.run(revocation, "Revoke")
    consent = world.consent(B, "z2")
    world.run(consent)
    world.run(revocation)


def h04_pair_of_a_different_user_is_not_revoked_after_the_user_connected(world: World) -> None:
    mismatch = world.consent(A, "z2")
    world.run(mismatch, "Put")
    world.crash(0)
    world.run(world.consent(B, "z2"))
    world.now += 4000


def h05_disconnection_revokes_the_grants_of_all_consents(world: World) -> None:
    for _ in range(3):
        world.run(world.consent(A, "z1"))
    world.run(world.disconnect(A))


def h06_event_does_not_apply_to_an_exchange_in_flight(world: World) -> None:
    prepare(world, 1)
    world.now += 300
    world.remove_app("z1")
    happened_at = world.now + world.rules.ahead
    consent = world.consent(A, "z1")
    world.run(consent, "ReadZoomUser")
    world.run(world.end_by_event("z1", happened_at, Cause.APP_DEAUTHORIZED))
    assert world.records["z1"].state is State.DISCONNECTED
    world.run(consent)
    assert world.records["z1"].state is State.ACTIVE


def h07_access_token_that_a_refresh_replaced_does_not_prove_the_removal_of_the_app(world: World) -> None:
    prepare(world, 1)
    happened_at = world.now - 20 + world.rules.ahead
    refresh = world.refresh("z1", replica=1)
    world.run(refresh, "AppendJournal")
    world.run(world.end_by_event("z1", happened_at, Cause.APP_DEAUTHORIZED))
    world.run(refresh)
    assert world.records["z1"].state is State.ACTIVE


def h08_event_of_a_fast_clock_does_not_end_a_later_consent(world: World) -> None:
    world.rules = replace(world.rules, ahead=65.0)
    prepare(world, 1)
    world.remove_app("z1")
    happened_at = world.now + world.rules.ahead
    world.run(world.consent(A, "z1"))
    record = world.records["z1"]
    world.records["z1"] = replace(record, zoom_consent_time=None)  # Zoom's response contained no date
    world.run(world.end_by_event("z1", happened_at, Cause.APP_DEAUTHORIZED))
    assert world.records["z1"].state is State.ACTIVE


def event_after_the_consent_on_zooms_clock_ends_the_connection(world: World) -> None:
    prepare(world, 1)
    world.run(world.consent(A, "z1"))
    reported_at = world.records["z1"].zoom_consent_time
    assert reported_at is not None
    world.run(world.end_by_event("z1", reported_at + 1.0, Cause.APP_DEAUTHORIZED))
    assert world.records["z1"].state is State.ACTIVE
    world.remove_app("z1")
    world.run(world.end_by_event("z1", reported_at + 2.5, Cause.APP_DEAUTHORIZED))
    assert world.records["z1"].state is State.DISCONNECTED


def h09_event_is_decided_again_after_a_refresh(world: World) -> None:
    prepare(world, 1)
    world.now += 300
    refresh = world.refresh("z1")
    world.run(refresh, "AppendJournal")
    world.remove_app("z1")
    event = world.end_by_event("z1", world.now + world.rules.ahead, Cause.APP_DEAUTHORIZED)
    world.run(event, "Put")
    world.run(refresh)
    world.run(event)
    assert world.records["z1"].state is State.DISCONNECTED


def h10_consent_that_a_rename_overtakes_is_not_lost(world: World) -> None:
    prepare(world, 1)
    overtaken = world.consent(A, "z1")
    world.run(overtaken, "Put")
    world.run(overtaken)
    overtaken = world.consent(A, "z1")
    world.run(overtaken, "ReadZoomUser")
    world.rename("z1", C)
    world.run(world.consent(C, "z1"))
    world.run(overtaken)
    assert world.records["z1"].user_email == C


def h11_consents_that_overlap_with_a_rename_lose_no_pair(world: World) -> None:
    prepare(world, 1)
    renamed = world.consent(C, "z1")
    world.rename("z1", C)
    world.run(renamed, "ReadZoomUser")
    world.run(world.consent(A, "z1"))
    world.run(renamed)


def h11_rename_survives_a_kill(world: World) -> None:
    prepare(world, 1)
    world.rename("z1", C)
    consent = world.consent(C, "z1")
    world.run(consent, "DropToken")
    world.crash(0)
    world.run(world.consent(C, "z1"))
    assert world.holder_of(A) is not None


def h12_pairs_of_a_displaced_user_are_revoked(world: World) -> None:
    prepare(world, 1)
    refresh = world.refresh("z1")
    world.run(refresh, "AppendJournal")
    world.rename("z1", C)
    world.rename("z2", A)
    world.run(world.consent(A, "z2"))
    world.run(refresh)


def h12_pairs_of_a_displaced_user_who_returns_are_revoked_after_a_disconnection(world: World) -> None:
    prepare(world, 1)
    world.rename("z1", C)
    world.rename("z2", A)
    world.run(world.consent(A, "z2"))
    world.run(world.consent(C, "z1"))
    world.run(world.disconnect(C))


def h13_replay_does_not_send_the_token_of_the_record(world: World) -> None:
    consent = world.consent(A, "z1")
    world.run(consent, "DeleteJournal")
    world.crash(0)
    world.now += 4000
    world.restart(0)


def h14_rejected_access_token_does_not_make_a_pair_worthless(world: World) -> None:
    consent = world.consent(A, "z1")
    world.run(consent, "ReadZoomUser")
    world.crash(0)
    world.rename("z1", C)
    world.rename("z2", A)
    world.run(world.consent(A, "z2"))
    world.now += 4000
    world.restart(0)


def h17_kill_at_the_end_of_a_link_leaves_no_registration(world: World) -> None:
    prepare(world, 1)
    consent = world.consent(A, "z1")
    world.run(consent, "DeleteJournal")
    world.step(consent)
    world.run(world.disconnect(A))
    world.run(*world.sweep())
    assert not world.records["z1"].pairs_to_revoke


def h18_supplied_token_is_sent_once_for_two_addresses(world: World) -> None:
    supplied = prepare(world, 3)
    assert supplied is not None
    first = world.supply(A, supplied, is_import=False)
    world.run(first, "ExchangeRefreshToken")
    world.run(world.supply(C, supplied, is_import=False))
    world.run(first)


def h19_supplied_token_is_not_sent_again_while_its_pair_waits(world: World) -> None:
    supplied = prepare(world, 3)
    assert supplied is not None
    world.burst = ["503"] * 3
    world.run_through_pauses(world.supply(A, supplied, is_import=False))
    world.now += 200
    world.run(world.supply(A, supplied, is_import=False))


def h19_supplied_token_is_not_sent_again_while_its_pair_waits_for_a_revocation(world: World) -> None:
    supplied = prepare(world, 3)
    assert supplied is not None
    world.run(world.consent(A, "z1"))
    world.run(world.disconnect(A))
    (revocation,) = world.sweep()
    world.run(revocation, "Revoke")
    linked = world.supply(C, supplied, is_import=False)
    world.run(linked)
    world.now += 95
    world.run(world.supply(B, supplied, is_import=False))
    assert world.sent[supplied.refresh_token][0] == linked.name or world.rules.consent_ends_grants


def h20_token_that_the_record_has_held_is_not_sent_again(world: World) -> None:
    prepare(world, 1)
    supplied = world.records["z1"].tokens
    assert supplied is not None
    world.run(world.refresh("z1"))
    world.run(world.supply(A, supplied, is_import=False))
    assert world.records["z1"].state is State.ACTIVE


def h21_import_that_was_overtaken_sends_nothing(world: World) -> None:
    supplied = prepare(world, 3)
    assert supplied is not None
    imported = world.supply(A, supplied, is_import=True)
    world.run(imported, "Put")
    world.run(imported, "ReadZoomUser")
    world.now += 100
    world.run(world.supply(A, supplied, is_import=False))
    world.run_through_pauses(imported)


def h22_import_does_not_replace_a_later_consent(world: World) -> None:
    supplied = prepare(world, 3)
    assert supplied is not None
    imported = world.supply(A, supplied, is_import=True)
    world.run(imported, "ReadZoomUser")
    world.run(world.consent(A, "z1"))
    stored = world.records["z1"].tokens
    world.run_through_pauses(imported)
    assert world.records["z1"].tokens == stored


def mark_and_pair_of_a_killed_process_are_settled_after_a_day(world: World) -> None:
    prepare(world, 1)
    world.run(world.consent(A, "z1"), "AppendJournal")
    world.crash(0)
    world.now += DAY
    world.run(world.disconnect(A))


def user_is_identified_after_the_record_is_read(world: World) -> None:
    world.run(world.consent(A, "z2", zoom_email=B))
    overtaken = world.consent(A, "z1")
    world.run(overtaken, "ReadZoomUser")
    world.run(overtaken, "Read")
    world.run(world.consent(A, "z1"))
    world.run_through_pauses(overtaken)
    world.run(world.refresh("z1"))
    assert world.records["z1"].state is State.ACTIVE


def revocation_that_stood_still_sends_nothing(world: World) -> None:
    prepare(world, 1)
    world.run(world.disconnect(A))
    (revocation,) = world.sweep()
    world.run(revocation, "Now")
    world.now += 100
    world.run(world.consent(A, "z1"))
    world.run(revocation)


def only_one_process_revokes(world: World) -> None:
    prepare(world, 1)
    world.run(world.disconnect(A))
    (revocation,) = world.sweep()
    world.run(revocation, "Revoke")
    world.run(*world.sweep())
    world.run(world.consent(A, "z1"))
    world.run(revocation)


def exchange_that_stood_still_sends_nothing(world: World) -> None:
    supplied = prepare(world, 3)
    assert supplied is not None
    overtaken = world.supply(A, supplied, is_import=False)
    world.run(overtaken, "Now")
    world.now += 100
    world.run(world.supply(A, supplied, is_import=False))
    world.run(overtaken)


def supplied_token_is_known_after_a_kill(world: World) -> None:
    supplied = prepare(world, 3)
    assert supplied is not None
    world.run(world.supply(A, supplied, is_import=False), "DropToken")
    world.crash(0)
    world.now += 100
    repetition = world.supply(A, supplied, is_import=False)
    world.run(repetition)
    assert getattr(repetition.verdict, "result", None) == LinkResult.KNOWN


def supplied_token_of_a_different_user_is_known_after_the_store_failed(world: World) -> None:
    prepare(world, 0)
    _, issued = world.consent_at_zoom("z2")
    supplied = TokenPair.from_response(issued, world.now)
    world.sent[supplied.refresh_token] = ("", False)
    request = world.supply(A, supplied, is_import=False)
    world.run(request, "Audit")
    world.step(request)
    world.fail_store(request)
    world.run_through_pauses(request)
    world.now += 100
    world.run(world.supply(A, supplied, is_import=False))


def code_is_not_sent_again_after_a_kill(world: World) -> None:
    consent = world.consent(A, "z1")
    world.run(consent, "AppendJournal")
    world.step(consent)
    world.crash(0)
    world.now += 100
    world.repeat()
    world.run(world.tasks[-1])


def repetition_of_a_code_returns_the_connection(world: World) -> None:
    world.run(world.consent(A, "z1"))
    world.now += 100
    world.repeat()
    repetition = world.tasks[-1]
    world.run(repetition)
    assert getattr(repetition.verdict, "result", None) == LinkResult.KNOWN


def disconnection_applies_to_an_exchange_in_flight(world: World) -> None:
    prepare(world, 1)
    consent = world.consent(A, "z1")
    world.run(consent, "ReadZoomUser")
    world.run(world.disconnect(A))
    world.run(consent)
    assert world.records["z1"].state is State.DISCONNECTED


def disconnection_is_decided_again_after_a_refresh(world: World) -> None:
    prepare(world, 1)
    refresh = world.refresh("z1")
    world.run(refresh, "AppendJournal")
    disconnection = world.disconnect(A)
    world.run(disconnection, "Put")
    world.run(refresh)
    world.run(disconnection)
    assert world.records["z1"].state is State.DISCONNECTED


def connection_of_a_deactivated_user_is_revoked_after_the_exchanges_in_flight(world: World) -> None:
    prepare(world, 1)
    world.now += 300
    consent = world.consent(A, "z1")
    world.run(consent, "ReadZoomUser")
    world.run(world.end_by_event("z1", world.now, Cause.USER_DEACTIVATED))
    for revocation in world.sweep():
        world.run(revocation)
    world.run(consent)


def grant_of_a_deactivated_user_is_revoked(world: World) -> None:
    prepare(world, 1)
    world.now += 300
    world.run(world.end_by_event("z1", world.now, Cause.USER_DEACTIVATED))


def refresh_that_a_disconnection_overtakes_is_revoked(world: World) -> None:
    prepare(world, 1)
    refresh = world.refresh("z1")
    world.run(refresh, "AppendJournal")
    world.run(world.disconnect(A))
    world.run(*world.sweep())
    world.run(refresh)


def refresh_waits_for_a_store_that_is_empty(world: World) -> None:
    prepare(world, 1)
    refresh = world.refresh("z1")
    world.run(refresh, "AppendJournal")
    world.empty_store()
    world.run(refresh)
    world.return_store()


def user_of_a_different_address_is_not_connected(world: World) -> None:
    world.run(world.consent(A, "z2"))
    assert world.holder_of(A) is None


def address_of_a_renamed_user_moves(world: World) -> None:
    prepare(world, 1)
    world.rename("z1", C)
    world.run(world.consent(C, "z1"))
    tombstone = world.holder_of(A)
    assert world.records["z1"].user_email == C
    assert tombstone is not None
    assert tombstone.state is State.DISCONNECTED


def explicit_address_does_not_move(world: World) -> None:
    world.run(world.consent(C, "z1", zoom_email=A))
    world.run(world.consent(A, "z1", owner="key|o2"))
    assert (world.records["z1"].user_email, world.records["z1"].owner) == (C, "key|o1")


def address_that_is_still_the_users_does_not_move(world: World) -> None:
    prepare(world, 1)
    world.run(world.consent(C, "z1", zoom_email=A))
    assert world.records["z1"].user_email == A


def explicit_address_stays_with_the_later_consent(world: World) -> None:
    earlier = world.consent(C, "z1", zoom_email=A)
    world.run(earlier, "ReadZoomUser")
    world.now += 5
    world.run(world.consent(C, "z2", zoom_email=B))
    world.run(earlier)
    assert world.records["z2"].user_email == C


def address_goes_to_the_user_that_zoom_reports(world: World) -> None:
    world.rename("z1", C)
    world.rename("z2", A)
    consent = world.consent(A, "z2")
    world.run(consent, "ExchangeCode")
    world.rename("z1", A)
    world.rename("z2", B)
    world.now += 5
    world.run(world.consent(A, "z1"))
    world.rename("z1", C)
    world.rename("z2", A)
    world.run(consent)
    assert world.records["z2"].user_email == A


def address_that_moved_in_the_meantime_is_not_taken(world: World) -> None:
    prepare(world, 1)
    world.rename("z1", C)
    world.rename("z2", A)
    consent = world.consent(A, "z2")
    world.run(consent, "AppendJournal")
    world.run(consent, "Put")
    world.step(consent)
    world.run(world.consent(C, "z1"))
    world.run(consent)
    assert world.records["z1"].user_email == C
    assert world.records["z1"].state is State.ACTIVE


def consent_that_a_later_consent_overtakes_is_verified_again(world: World) -> None:
    prepare(world, 1)
    overtaken = world.consent(A, "z1")
    world.run(overtaken, "AppendJournal")
    world.run(overtaken, "Put")
    world.run(world.consent(A, "z1"))
    world.run_through_pauses(overtaken)
    world.run(world.refresh("z1"))
    assert world.records["z1"].state is State.ACTIVE


def imported_token_of_a_different_user_is_not_sent(world: World) -> None:
    supplied = prepare(world, 3)
    assert supplied is not None
    world.run(world.supply(C, supplied, is_import=True))
    assert world.sent[supplied.refresh_token] == ("", False)


def refresh_token_of_a_different_user_is_not_stored(world: World) -> None:
    supplied = prepare(world, 4)
    assert supplied is not None
    world.run(world.supply(A, supplied, is_import=True))
    assert world.records["z1"].state is State.ACTIVE
    world.run(world.refresh("z1"))
    assert world.records["z1"].state is State.REAUTH_REQUIRED
    world.run(world.disconnect(A))


def first_refresh_of_an_imported_pair_keeps_the_user_connected(world: World) -> None:
    supplied = prepare(world, 3)
    assert supplied is not None
    world.run(world.supply(A, supplied, is_import=True))
    for _ in range(2):
        world.run(world.refresh("z1"))
    assert world.records["z1"].state is State.ACTIVE
    assert world.records["z1"].owner == "key|o1"


def refresh_of_an_imported_pair_keeps_the_owner_of_a_later_consent(world: World) -> None:
    supplied = prepare(world, 3)
    assert supplied is not None
    world.run(world.supply(A, supplied, is_import=True))
    refresh = world.refresh("z1")
    world.run(refresh, "ReadZoomUser")
    world.run(world.consent(A, "z1", owner="key|o2"))
    world.run_through_pauses(refresh)
    assert world.records["z1"].owner == "key|o2"


def zoom_user_is_known_after_a_failed_write(world: World) -> None:
    consent = world.consent(A, "z2")
    world.run(consent, "Put")
    world.lose_confirmation(consent)
    world.now += 4000
    world.run_through_pauses(consent)


def call_is_made_only_for_the_owner(world: World) -> None:
    prepare(world, 1)
    world.call(A, "key|o2")
    world.run_all()


def owner_is_checked_after_a_refresh(world: World) -> None:
    prepare(world, 2)
    world.call(A, "key|o1")
    world.run_all("AppendJournal")
    world.run(world.consent(A, "z1", owner="key|o2"))
    world.run_all()


def owner_is_checked_after_a_rejection(world: World) -> None:
    prepare(world, 1)
    world.call(A, "key|o1")
    world.run_all("CallZoom")
    world.run(world.consent(A, "z1", owner="key|o2"))
    world.run_all()


def call_is_not_repeated_for_a_different_zoom_user(world: World) -> None:
    prepare(world, 1)
    world.call(A)
    world.run_all("CallZoom")
    world.rename("z1", C)
    world.rename("z2", A)
    world.run(world.consent(A, "z2"))
    for revocation in world.sweep():
        world.run(revocation)
    world.run_all()


def call_does_not_use_the_token_of_a_user_who_was_renamed_during_a_refresh(world: World) -> None:
    prepare(world, 2)
    world.call(A)
    world.run_all("AppendJournal")
    world.rename("z1", C)
    world.run(world.consent(C, "z1"))
    world.run_all()


def call_after_a_disconnection_is_not_made(world: World) -> None:
    prepare(world, 1)
    world.call(A, replica=1)
    world.run_all()
    world.run(world.disconnect(A))
    world.now += 10
    world.call(A, replica=1)
    world.run_all()


def displaced_user_connects_elsewhere(world: World) -> None:
    prepare(world, 1)
    world.rename("z1", C)
    world.rename("z2", A)
    elsewhere = world.consent(C, "z1")
    world.run(elsewhere, "ReadZoomUser")
    world.now += 5
    world.run(world.consent(A, "z2"))
    world.run(elsewhere)
    assert world.records["z1"].state is State.ACTIVE


def earlier_consent_that_is_stored_later_does_not_free_the_address(world: World) -> None:
    earlier = world.consent(A, "z2", zoom_email=B)
    world.run(earlier, "ReadZoomUser")
    world.now += 5
    other = world.consent(A, "z1")
    world.run(other, "ReadZoomUser")
    world.now += 5
    world.run(world.consent(A, "z2", zoom_email=B))
    world.run_through_pauses(earlier)
    world.run_through_pauses(other)
    assert world.records["z2"].user_email == A


def pair_of_a_different_address_is_known_after_a_kill(world: World) -> None:
    world.run(world.consent(B, "z2"))
    consent = world.consent(A, "z2")
    world.run(consent, "DropToken")
    world.crash(consent.replica)
    world.now += 4000
    world.run(world.refresh("z2"))
    world.restart(consent.replica)


HOLES: tuple[Hole, ...] = tuple(
    function
    for name, function in list(globals().items())
    if isinstance(function, FunctionType)
    and function.__module__ == __name__
    and name not in ("worlds", "run_hole")
)
