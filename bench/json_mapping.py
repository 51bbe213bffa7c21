"""Benchmark of the mapping from Zoom's JSON to a typed meeting, compared with protobuf's json_format: `python -m bench.json_mapping`."""

import timeit

import orjson
from google.protobuf import json_format

from bench.upstream import BODY
from zoomgate.v1 import meeting_pb2
from zoomgate_server.rpc.services import json_mapping
from zoomgate_server.rpc.services.meetings import MeetingsService
from zoomgate_server.zoom.request import ZoomResponse

CALLS = 2000


def rounds(count: int) -> list[tuple[float, float]]:
    """Return, per round, the microseconds of Zoomgate's mapping and of protobuf's. Parsing the JSON is not included."""
    plan = json_mapping.MessageConverter(meeting_pb2.Meeting.DESCRIPTOR)
    data = orjson.loads(BODY)
    response = MeetingsService.GetMeeting.read(ZoomResponse(200, (), BODY))
    assert response is not None
    protobuf_data = json_format.MessageToDict(response.meeting, preserving_proto_field_name=True)

    def map_by_plan() -> object:
        return meeting_pb2.Meeting(**plan.fields(data))

    def map_by_protobuf() -> object:
        return json_format.ParseDict(protobuf_data, meeting_pb2.Meeting())

    assert map_by_plan() == map_by_protobuf()
    times = []
    for _ in range(count):
        ours = timeit.timeit(map_by_plan, number=CALLS) / CALLS * 1e6
        theirs = timeit.timeit(map_by_protobuf, number=CALLS // 10) / (CALLS // 10) * 1e6
        times.append((ours, theirs))
    return times


if __name__ == "__main__":
    for ours, theirs in rounds(7):
        print(f"plan {ours:6.1f} us   json_format {theirs:6.1f} us   1/{theirs / ours:.1f}")
