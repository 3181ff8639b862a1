// What the API is asked. Paths are relative to the page, wherever the gateway is mounted.

const PLACE = new URL(".", location.href).pathname;
const KEY = `perdure.key ${PLACE}`;

/** An answer that was a refusal: `status`, the class of the error, and what it says. */
export class Problem extends Error {
  constructor(status, type, detail) {
    super(detail);
    this.status = status;
    this.type = type;
  }
}

/** The API key of this tab; it is gone when the tab is closed. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** The answer's JSON. Raises `Problem`; status 0: nobody answered. */
export async function ask(path, { method = "GET", body, query, signal } = {}) {
  const answer = await request(path, { method, body, query, signal });
  const text = await answer.text();
  if (!answer.ok) throw refusal(answer, text);
  return parse(text);
}

/** The answer while it comes. */
export async function request(path, { method = "GET", body, query, signal, headers = {} } = {}) {
  const found = [...(query ?? [])].filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const asked = found.length ? `${path}?${new URLSearchParams(found)}` : path;
  const sent = { accept: "application/json", ...headers };
  if (key.get()) sent.authorization = `Bearer ${key.get()}`;
  if (body !== undefined) sent["content-type"] = "application/json";
  try {
    return await fetch(asked, { method, headers: sent, body, signal, cache: "no-store", redirect: "error" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, "Unreached", "The engine does not answer: it is stopped, or starts again.");
  }
}

export function refusal(answer, text) {
  let told = {};
  try {
    told = JSON.parse(text);
  } catch {
    // A proxy between answered in its own way.
  }
  const type = String(told.type ?? "").replace(/^.*:/, "");
  return new Problem(answer.status, type, String(told.detail ?? `status ${answer.status}`));
}

/** JSON with its numbers as they were written: 64 bits do not fit into one of JavaScript's. */
export function parse(text) {
  return JSON.parse(text, (_, value, context) => {
    const source = context?.source;
    const exact = typeof value !== "number" || source === undefined || String(value) === source;
    return exact || !JSON.rawJSON ? value : JSON.rawJSON(source);
  });
}

/** A number of the engine's own, which may have come as `1.0`. */
export function number(value) {
  return typeof value === "object" && value !== null ? Number(value.rawJSON) : value;
}

/** A path's part that may hold anything. */
export const part = encodeURIComponent;

// What would not be seen in a field where it can be edited is written as an escape.
const ESCAPED = /[\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** As JSON that people read and edit. */
export function pretty(value) {
  const text = JSON.stringify(value, null, 2) ?? "";
  return text.replace(ESCAPED, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
