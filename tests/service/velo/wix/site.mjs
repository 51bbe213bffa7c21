// The state of the simulated site and of the visitor's browser.
export const site = {
  /** The members' area: the address of the member who is logged in. */
  member: undefined,
  secrets: { 'zoomgate-caller-key': process.env.ZOOMGATE_KEY },
  config: { zoom: { zoomgateUrl: process.env.ZOOMGATE_URL } },
  /** The URL of the page in the browser. */
  url: new URL('https://www.example.com/zoom'),
  /** Where the page's code runs: `backend` or `browser`. */
  env: 'browser',
  /** The headers of the requests to Zoomgate. */
  requests: [],
};
