import { site } from './site.mjs';

export default {
  rendering: {
    get env() {
      return site.env;
    },
  },
};
