import { site } from './site.mjs';

export const getPackageConfig = async (key) => site.config[key];
