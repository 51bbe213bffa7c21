// Print the state of a user's connection, with grpc-js instead of Connect's library.

import { readFileSync } from "node:fs";
import { credentials, Metadata } from "@grpc/grpc-js";
import { AuthServiceClient } from "./gen-grpc-js/zoomgate/v1/auth_service.js";
import { connection_StateToJSON } from "./gen-grpc-js/zoomgate/v1/connection.js";

const [userEmail = ""] = process.argv.slice(2);
const target = process.env.ZOOMGATE_SERVER ?? "127.0.0.1:50051";
const local = /^(localhost|127\.0\.0\.1|\[::1\]):/.test(target);
const auth = new AuthServiceClient(target, local ? credentials.createInsecure() : credentials.createSsl(), {
  "grpc.service_config": readFileSync("../../proto/zoomgate/v1/service_config.json", "utf8"),
  "grpc.keepalive_time_ms": 30_000,
});
const metadata = new Metadata();
if (process.env.ZOOMGATE_KEY) metadata.set("authorization", `Bearer ${process.env.ZOOMGATE_KEY}`);
auth.getConnection({ userEmail }, metadata, (error, response) => {
  if (error) {
    console.error(error.message);
    process.exitCode = 1;
  } else {
    console.log(connection_StateToJSON(response.connection!.state));
  }
  auth.close();
});
