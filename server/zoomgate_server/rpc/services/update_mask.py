"""Selection of the properties that an update changes or clears (https://google.aip.dev/134, https://google.aip.dev/161)."""

from collections.abc import Iterator, Sequence, Set

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from zoomgate.v1 import meeting_pb2 as pb
from zoomgate_server.rpc.services import zoom_json
from zoomgate_server.rpc.services.validation import Violations

MAX_PATHS = 1000

_NOT_CLEARABLE = frozenset({"local_start_time", "schedule_for", "template_id", "timezone", "weekly_days"})
"""Strings and lists that have no empty value at Zoom."""


def select(
    details: pb.MeetingDetails, mask: FieldMask, violations: Violations
) -> tuple[pb.MeetingDetails, list[Sequence[str]]]:
    """Return the properties in a mask that are set, and the paths of those that are to be cleared."""
    selected = pb.MeetingDetails()
    set_paths, cleared = FieldMask(), list[Sequence[str]]()
    if not 1 <= len(mask.paths) <= MAX_PATHS:
        violations.add(
            "update_mask", f"has {len(mask.paths)} paths; send 1 to {MAX_PATHS} paths, or omit the mask"
        )
        return selected, []
    paths, seen = frozenset(mask.paths), set[str]()
    for index, path in enumerate(mask.paths):
        names = path.split(".")
        problem = _problem(details, path, names, seen, paths)
        seen.add(path)
        if problem is not None:
            violations.add(f"update_mask.paths[{index}]", problem)
        elif _is_set(details, names):
            set_paths.paths.append(path)
        else:
            cleared.append(names)
    set_paths.MergeMessage(details, selected)
    return selected, cleared


def clearable_paths(descriptor: Descriptor = pb.MeetingDetails.DESCRIPTOR, parent: str = "") -> Iterator[str]:
    """Yield the paths of the properties that can be cleared."""
    for field in descriptor.fields:
        if zoom_json.short_name(field) in zoom_json.OUTPUT_ONLY:
            continue
        path = f"{parent}{field.name}"
        nested = _nested(field)
        if nested is not None:
            yield from clearable_paths(nested, f"{path}.")
        elif _is_clearable(field):
            yield path


def _problem(
    details: pb.MeetingDetails, path: str, names: Sequence[str], seen: Set[str], paths: Set[str]
) -> str | None:
    """Return why a path is invalid, or None."""
    if path == "*":
        return "stands for all properties, but Zoom cannot replace a meeting; list the properties to change, or omit the mask"
    field = _field(pb.MeetingDetails.DESCRIPTOR, names)
    if field is None:
        return "is not a property of meeting_details; send a path such as topic or settings.waiting_room"
    if zoom_json.short_name(field) in zoom_json.OUTPUT_ONLY:
        return "can only be returned by Zoom; remove the path"
    if path in seen:
        return "is a duplicate; send each path once"
    for count in range(1, len(names)):
        if (parent := ".".join(names[:count])) in paths:
            return f"is a part of {parent}, which is also in the mask; send only one of them"
    if not _is_set(details, names) and not _is_clearable(field):
        return "has no value, and Zoom cannot clear it; set a value in meeting_details, or remove the path"
    return None


def _field(descriptor: Descriptor | None, names: Sequence[str]) -> FieldDescriptor | None:
    """Return the field at a path, or None if there is none. A path ends at a repeated field, and at a message that is not Zoomgate's."""
    field = None
    for name in names:
        field = None if descriptor is None else descriptor.fields_by_name.get(name)
        if field is None or field.name != name:  # protobuf ignores a NUL and what follows
            return None
        descriptor = _nested(field)
    return field


def _nested(field: FieldDescriptor) -> Descriptor | None:
    """Return the message whose fields continue a path, or None if the path ends at this field."""
    nested = field.message_type
    is_end = nested is None or field.is_repeated or nested.file.package != pb.DESCRIPTOR.package
    return None if is_end else nested


def _is_clearable(field: FieldDescriptor) -> bool:
    is_empty_value = field.is_repeated or field.cpp_type == FieldDescriptor.CPPTYPE_STRING
    return is_empty_value and field.name not in _NOT_CLEARABLE


def _is_set(message: Message, names: Sequence[str]) -> bool:
    """Return whether the field at a path has a value. A message without any set field is none, except a time."""
    *parents, name = names
    for parent in parents:
        message = getattr(message, parent)
    value = next((value for field, value in message.ListFields() if field.name == name), None)
    if isinstance(value, Message) and not isinstance(value, Timestamp):
        return bool(value.ListFields())
    return value is not None
