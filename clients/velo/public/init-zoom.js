import wixLocationFrontend from 'wix-location-frontend';
import wixWindowFrontend from 'wix-window-frontend';
import { beginAuthorization, completeAuthorization } from 'backend/zoom-api-wrapper.jsw';

/**
 * Open Zoom's page on which the member allows access.
 *
 * @param {{userEmail: string, options?: object}} authorization `options` are returned by `initZoom`
 * @returns {Promise<void>}
 */
export async function authorizeUser({ userEmail, options }) {
  wixLocationFrontend.to(await beginAuthorization({ userEmail, options }));
}

/**
 * Return the query parameters of the page, such as `code` and `state` after a redirect from Zoom.
 *
 * @returns {Record<string, string>}
 */
export function getQueryParams() {
  return wixLocationFrontend.query;
}

/**
 * Connect the member if Zoom has redirected the browser to this page. Otherwise, do nothing.
 *
 * @param {{code?: string}} [data] the code, by default the one in the URL of the page
 * @returns {Promise<{userEmail: string, options: object} | undefined>} what was passed to `authorizeUser`; undefined if nothing was done
 */
export async function initZoom({ code } = {}) {
  const { state, ...query } = getQueryParams();
  // a state can be used only once, and Wix also runs the code of a page on its servers
  if (!state || wixWindowFrontend.rendering.env !== 'browser') return undefined;
  const callbackUrl = `?${new URLSearchParams({ ...query, ...(code && { code }), state })}`;
  // a reload of the page must not send the code again
  wixLocationFrontend.queryParams.remove(['code', 'state', 'error', 'error_description']);
  return completeAuthorization({ callbackUrl });
}
