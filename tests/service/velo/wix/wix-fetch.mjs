import { site } from './site.mjs';

export async function fetch(url, options) {
  site.requests.push(options.headers);
  return globalThis.fetch(url, options);
}
