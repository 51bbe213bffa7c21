"""Zoom's JSON to a typed meeting, against protobuf's own mapping: `python -m bench.json_mapping`."""

import timeit

import orjson
from google.protobuf import json_format

from bench.upstream import BODY
from zoomgate.v1 import meeting_pb2
from zoomgate_server.rpc.services import json_mapping, meeting_mapping

CALLS = 2000


def rounds(count: int) -> list[tuple[float, float]]:
    """Time both mappings in turn: microseconds of the plan and of protobuf, parsed JSON in both cases."""
    plan = json_mapping.Plan(meeting_pb2.Meeting.DESCRIPTOR, meeting_mapping.CONVENTIONS)
    data = orjson.loads(BODY)
    same = json_format.MessageToDict(meeting_mapping.meeting(BODY), preserving_proto_field_name=True)

    def by_plan() -> object:
        return meeting_pb2.Meeting(**plan.fields(data))

    def by_protobuf() -> object:
        return json_format.ParseDict(same, meeting_pb2.Meeting())

    assert by_plan() == by_protobuf()
    found = []
    for _ in range(count):
        ours = timeit.timeit(by_plan, number=CALLS) / CALLS * 1e6
        theirs = timeit.timeit(by_protobuf, number=CALLS // 10) / (CALLS // 10) * 1e6
        found.append((ours, theirs))
    return found


if __name__ == "__main__":
    for ours, theirs in rounds(7):
        print(f"plan {ours:6.1f} us   json_format {theirs:6.1f} us   1/{theirs / ours:.1f}")
