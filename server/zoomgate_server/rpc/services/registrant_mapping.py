"""Conversion of Zoom's responses about registrations to messages (https://developers.zoom.us/docs/api/meetings/)."""

from zoomgate.v1 import registrants_service_pb2 as pb
from zoomgate_server.rpc.services.response_mapping import list_reader, message_reader

registrant = message_reader(pb.GetRegistrantResponse, field="registrant", required="id")
registrants = list_reader(pb.ListRegistrantsResponse, items="registrants")
added_registrant = message_reader(pb.AddRegistrantResponse, required="registrant_id")
