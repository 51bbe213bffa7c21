import { site } from './site.mjs';

export default {
  get query() {
    return Object.fromEntries(site.url.searchParams);
  },
  queryParams: {
    remove(names) {
      names.forEach((name) => site.url.searchParams.delete(name));
    },
  },
  to(url) {
    site.url = new URL(url);
  },
};
