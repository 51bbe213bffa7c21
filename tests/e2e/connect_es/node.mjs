// Reads the arguments of the calls from standard input, and writes the results to standard output.

import { createConnectTransport } from "@connectrpc/connect-node";
import { readFileSync } from "node:fs";
import { calls } from "./calls.mjs";

console.log(JSON.stringify(await calls(createConnectTransport, JSON.parse(readFileSync(0, "utf-8")))));
