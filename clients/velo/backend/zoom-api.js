import { callZoom } from './zoomgate/rpc.js';

/**
 * Send a GET request to Zoom's API.
 *
 * @param {{url: string, userEmail: string}} request
 * @returns {Promise<Response>}
 */
export async function getRequest({ url, userEmail }) {
  return callZoom('Get', { url, userEmail });
}

/**
 * Send a POST request to Zoom's API.
 *
 * @param {{url: string, dataToSend: object, userEmail: string}} request
 * @returns {Promise<Response>}
 */
export async function postRequest({ url, dataToSend, userEmail }) {
  return callZoom('Post', { url, dataToSend, userEmail });
}

/**
 * Send a PATCH request to Zoom's API.
 *
 * @param {{url: string, dataToSend: object, userEmail: string}} request
 * @returns {Promise<Response>}
 */
export async function patchRequest({ url, dataToSend, userEmail }) {
  return callZoom('Patch', { url, dataToSend, userEmail });
}

/**
 * Send a DELETE request to Zoom's API.
 *
 * @param {{url: string, userEmail: string}} request
 * @returns {Promise<Response>}
 */
export async function deleteRequest({ url, userEmail }) {
  return callZoom('Delete', { url, userEmail });
}
