// Defines `calls` for scripts in the page. An error becomes the result.

import { createConnectTransport } from "@connectrpc/connect-web";
import { calls } from "./calls.mjs";

window.calls = (options) => calls(createConnectTransport, options).catch((error) => ({ failed: String(error) }));
