// Calls of a web module from a page: arguments and results are JSON, and of an error, only the message arrives.
const copy = (value) => (value === undefined ? undefined : JSON.parse(JSON.stringify(value)));

export function remote(functions) {
  const entries = Object.entries(functions).map(([name, run]) => [
    name,
    async (...parameters) => {
      try {
        return copy(await run(...copy(parameters)));
      } catch ({ message }) {
        throw new Error(message);
      }
    },
  ]);
  return Object.fromEntries(entries);
}
