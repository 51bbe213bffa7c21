import { site } from './site.mjs';

export async function getSecret(name) {
  if (!(name in site.secrets)) throw new Error(`There is no secret named ${name}`);
  return site.secrets[name];
}
