"""Counterexamples: a short history for each mutant of the lifecycle protocols, which detects the mutant.

A history in `BY_MUTANT` contains the numbers of a tape that are not zero, by position. It depends on the order in which the world draws its
numbers. `PYTHONPATH=tests python -m model.lifecycle_counterexamples` searches again for those that no longer detect their mutant.
"""

import io
import sys

from model.lifecycle_histories import search, shrink, sparse, tape_of, violation_of
from model.lifecycle_mutants import MUTANTS, load
from zoomgate_server.telemetry import logs

BY_HISTORY: dict[str, str] = {
    "pair_discarded_if_zoom_fails": "h19_supplied_token_is_not_sent_again_while_its_pair_waits",
    "pair_discarded_if_access_token_rejected": "h14_rejected_access_token_does_not_make_a_pair_worthless",
    "pair_revoked_if_access_token_rejected": "consent_that_a_later_consent_overtakes_is_verified_again",
    "first_refresh_of_imported_pair_not_verified": "refresh_token_of_a_different_user_is_not_stored",
    "journal_deleted_before_write": "displaced_user_connects_elsewhere",
    "journal_not_deleted": "displaced_user_connects_elsewhere",
    "user_identified_before_record_is_read": "user_is_identified_after_the_record_is_read",
    "conflict_not_decided_again": "consent_that_a_later_consent_overtakes_is_verified_again",
    "revocation_without_lease": "address_goes_to_the_user_that_zoom_reports",
    "revocation_after_lease": "revocation_that_stood_still_sends_nothing",
    "revocation_ignores_exchanges": "connection_of_a_deactivated_user_is_revoked_after_the_exchanges_in_flight",
    "unknown_outcome_delays_revocation_forever": "h01_killed_exchange_does_not_delay_the_revocation_forever",
    "lease_of_running_revocation_ignored": "only_one_process_revokes",
    "exchange_does_not_wait_for_revocation": "only_one_process_revokes",
    "write_does_not_wait_for_revocation": "h04_pair_of_a_different_user_is_revoked_before_the_user_connects",
    "exchange_not_registered": "connection_of_a_deactivated_user_is_revoked_after_the_exchanges_in_flight",
    "overdue_pairs_erased_without_attempt": "h01_killed_exchange_does_not_delay_the_revocation_forever",
    "no_mark": "code_is_not_sent_again_after_a_kill",
    "mark_ignored": "code_is_not_sent_again_after_a_kill",
    "mark_of_running_exchange_ignored": "h18_supplied_token_is_sent_once_for_two_addresses",
    "mark_of_deferred_pair_ignored": "h19_supplied_token_is_not_sent_again_while_its_pair_waits",
    "deferred_pair_not_noted_in_mark": "h19_supplied_token_is_not_sent_again_while_its_pair_waits",
    "retried_pair_not_noted_in_mark": "h19_supplied_token_is_not_sent_again_while_its_pair_waits_for_a_revocation",
    "stored_pair_not_noted_in_mark": "repetition_of_a_code_returns_the_connection",
    "stored_pair_not_noted_in_mark_if_the_store_fails": "supplied_token_of_a_different_user_is_known_after_the_store_failed",
    "code_sent_again": "code_is_not_sent_again_after_a_kill",
    "exchange_after_mark": "exchange_that_stood_still_sends_nothing",
    "held_token_sent": "h20_token_that_the_record_has_held_is_not_sent_again",
    "supplied_token_of_stored_pair_sent": "supplied_token_is_known_after_a_kill",
    "event_near_consent_ends_connection": "h08_event_of_a_fast_clock_does_not_end_a_later_consent",
    "rejected_access_token_near_consent_ends_connection": "h07_access_token_that_a_refresh_replaced_does_not_prove_the_removal_of_the_app",
    "event_discards_exchange_in_flight": "connection_of_a_deactivated_user_is_revoked_after_the_exchanges_in_flight",
    "disconnection_does_not_apply_to_exchange_in_flight": "disconnection_applies_to_an_exchange_in_flight",
    "disconnection_not_decided_again": "disconnection_is_decided_again_after_a_refresh",
    "disconnection_drops_pairs": "address_goes_to_the_user_that_zoom_reports",
    "disconnection_drops_superseded_pairs": "h17_kill_at_the_end_of_a_link_leaves_no_registration",
    "retention_drops_pairs_of_deactivated_user": "grant_of_a_deactivated_user_is_revoked",
    "event_does_not_wait_for_exchange_in_flight": "connection_of_a_deactivated_user_is_revoked_after_the_exchanges_in_flight",
    "superseded_pairs_dropped": "h17_kill_at_the_end_of_a_link_leaves_no_registration",
    "pairs_to_revoke_dropped_by_consent": "h12_pairs_of_a_displaced_user_who_returns_are_revoked_after_a_disconnection",
    "superseded_pairs_revoked": "address_that_moved_in_the_meantime_is_not_taken",
    "late_pair_dropped": "refresh_that_a_disconnection_overtakes_is_revoked",
    "missing_record_ends_grant": "refresh_waits_for_a_store_that_is_empty",
    "mismatched_pair_discarded": "explicit_address_stays_with_the_later_consent",
    "mismatched_pair_revoked": "h11_consents_that_overlap_with_a_rename_lose_no_pair",
    "mismatch_linked": "user_of_a_different_address_is_not_connected",
    "import_exchanges_token_of_different_user": "imported_token_of_a_different_user_is_not_sent",
    "address_taken_without_looking": "address_that_moved_in_the_meantime_is_not_taken",
    "address_taken_from_later_consent": "explicit_address_stays_with_the_later_consent",
    "address_kept_although_zoom_reports_new_user": "address_goes_to_the_user_that_zoom_reports",
    "displaced_pairs_dropped": "address_goes_to_the_user_that_zoom_reports",
    "displacement_applies_to_consents_elsewhere": "displaced_user_connects_elsewhere",
    "always_renamed": "address_that_is_still_the_users_does_not_move",
    "explicit_address_renamed": "explicit_address_does_not_move",
    "never_renamed": "address_that_moved_in_the_meantime_is_not_taken",
    "no_tombstone_for_previous_address": "address_that_moved_in_the_meantime_is_not_taken",
    "owner_changed_by_consent_for_different_address": "explicit_address_does_not_move",
    "address_freed_by_earlier_consent": "earlier_consent_that_is_stored_later_does_not_free_the_address",
    "zoom_user_not_appended_to_journal": "pair_of_a_different_address_is_known_after_a_kill",
    "owner_changed_by_refresh": "refresh_of_an_imported_pair_keeps_the_owner_of_a_later_consent",
    "generation_restarts": "displaced_user_connects_elsewhere",
    "zoom_user_forgotten_after_store_failure": "zoom_user_is_known_after_a_failed_write",
    "call_of_different_owner": "call_is_made_only_for_the_owner",
    "owner_not_checked_after_refresh": "owner_is_checked_after_a_refresh",
    "owner_not_checked_after_rejection": "owner_is_checked_after_a_rejection",
    "call_repeated_with_token_of_different_zoom_user": "call_is_not_repeated_for_a_different_zoom_user",
    "refreshed_token_of_different_address_used": "call_does_not_use_the_token_of_a_user_who_was_renamed_during_a_refresh",
    "change_of_connection_ignored": "call_after_a_disconnection_is_not_made",
}
"""The written histories (`model.lifecycle_holes`) that detect mutants, by the name of the mutant."""

BY_MUTANT: dict[str, dict[int, int]] = {
    "exchanged_pair_not_appended_to_journal": {
        8: 2,
        9: 2,
        10: 1,
        12: 20,
        13: 4,
        19: 101,
        60: 4,
        63: 61,
        100: 9,
        153: 80,
        155: 3,
        172: 99,
    },
    "renewed_pair_not_appended_to_journal": {
        0: 2,
        9: 2,
        11: 23,
        15: 1,
        16: 45,
        18: 2,
        19: 75,
        65: 92,
        66: 1,
        67: 2,
        71: 2,
        96: 90,
        98: 3,
    },
    "commit_not_recognized": {
        2: 2,
        7: 2,
        8: 2,
        9: 2,
        10: 3,
        11: 20,
        13: 43,
        14: 31,
        15: 2,
        16: 2,
        17: 2,
        18: 3,
        20: 1,
        21: 13,
        22: 1,
        23: 2,
        42: 87,
        64: 83,
        93: 98,
        95: 64,
        96: 1,
    },
    "store_failure_discards_pair": {
        3: 1,
        7: 2,
        9: 2,
        10: 1,
        11: 34,
        16: 1,
        17: 15,
        34: 93,
        36: 2,
        62: 2,
        72: 98,
    },
    "late_key_discards_pair": {3: 1, 6: 2, 10: 3, 12: 4, 14: 43, 15: 4, 16: 1, 17: 3, 20: 1, 65: 51},
    "later_mark_wins": {
        6: 2,
        10: 2,
        11: 7,
        12: 20,
        13: 18,
        14: 4,
        15: 2,
        16: 2,
        17: 1,
        18: 1,
        25: 8,
        36: 89,
        41: 78,
        46: 75,
        51: 92,
        52: 1,
        53: 1,
        55: 8,
        67: 65,
        68: 1,
        71: 5,
        76: 1,
    },
    "unconfirmed_revocation_erases_pair": {8: 2, 10: 2, 11: 27, 14: 4, 21: 1, 22: 56, 78: 97},
    "registration_never_removed": {10: 1, 11: 12, 12: 5, 15: 1},
    "event_before_consent_ends_connection": {
        2: 2,
        6: 2,
        7: 2,
        10: 3,
        11: 9,
        12: 31,
        13: 37,
        14: 5,
        15: 4,
        16: 3,
        18: 1,
        19: 2,
        20: 2,
        22: 1,
        23: 53,
        31: 9,
        39: 90,
        48: 63,
        50: 1,
        52: 8,
        61: 83,
        63: 75,
        66: 96,
        67: 60,
        79: 7,
        98: 3,
        103: 76,
        104: 1,
        105: 81,
        106: 2,
        107: 75,
        109: 5,
        111: 94,
        112: 3,
    },
    "late_pair_revoked": {12: 3, 18: 1, 19: 57},
}
"""The searched histories, by the name of the mutant."""

SELDOM_FOUND: dict[str, str] = {
    "address_freed_by_earlier_consent": "A user's two consents are stored in reverse order while another user consents.",
    "zoom_user_forgotten_after_store_failure": "A write is stored but reported as failed, and the access token expires before the retry.",
    "lease_of_running_revocation_ignored": "Another revocation of the same pairs starts and the user consents, both during a call.",
    "stored_pair_not_noted_in_mark_if_the_store_fails": "The store fails after it has a different user's pair, whose token is resent.",
    "refreshed_token_of_different_address_used": "A user is renamed and consents during the refresh for a call.",
}
"""The mutants that the search of the fast tests does not find without their own histories, with what must coincide."""


def main(seeds: range) -> None:
    """Print new histories for the mutants whose history does not detect them any more."""
    logs.configure("error", "json", io.StringIO())
    for mutant in MUTANTS:
        protocols = load(mutant)
        stored = tape_of(BY_MUTANT.get(mutant.name, {}))
        if mutant.name in BY_HISTORY or (
            violation_of(stored, protocols=protocols) and not violation_of(stored)
        ):
            continue
        found = search(seeds, protocols)
        tape = None if found is None else sparse(shrink(found.world.drawn, found.args[0], protocols))
        sys.stdout.write(f'"{mutant.name}": {tape},\n')


if __name__ == "__main__":
    main(range(100_000))
