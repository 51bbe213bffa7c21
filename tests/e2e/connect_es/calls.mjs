// Calls with connect-es, the same in Node.js and in browsers. The types of the messages come from descriptors in Base64.

import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { base64Decode } from "@bufbuild/protobuf/wire";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";

export async function calls(createTransport, { url, key, user, descriptors, useBinaryFormat }) {
  const types = createFileRegistry(fromBinary(FileDescriptorSetSchema, base64Decode(descriptors)));
  const headers = { authorization: `Bearer ${key}` };
  const transport = createTransport({ baseUrl: url, httpVersion: "1.1", useBinaryFormat });
  const meetings = createClient(types.getService("zoomgate.v1.MeetingsService"), transport);
  let requestId;
  const options = { headers, timeoutMs: 20000, onHeader: (received) => (requestId = received.get("x-request-id")) };
  const { meeting } = await meetings.createMeeting({ userEmail: user, meetingDetails: { topic: "Review" } }, options);
  const failure = async (call) => {
    try {
      await call;
      return "no error";
    } catch (thrown) {
      const error = ConnectError.from(thrown);
      const details = (name) => error.findDetails(types.getMessage(`google.rpc.${name}`));
      return {
        code: Code[error.code],
        reasons: details("ErrorInfo").map((info) => info.reason),
        fields: details("BadRequest").flatMap((bad) => bad.fieldViolations.map((row) => row.field)),
      };
    }
  };
  return {
    id: String(meeting.id),
    topic: meeting.topic,
    requestId,
    missing: await failure(meetings.getMeeting({ userEmail: user, meetingId: 1n }, { headers })),
    invalid: await failure(meetings.getMeeting({ userEmail: "x" }, { headers })),
    anonymous: await failure(meetings.getMeeting({ userEmail: user, meetingId: 1n })),
  };
}
