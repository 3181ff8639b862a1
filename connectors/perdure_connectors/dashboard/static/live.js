// What changes, told by the engine as it changes. Where it does not tell, pages ask each second.

import { request } from "./api.js";

const AGAIN_MS = 2000;

/** Told of the runs that changed, `[{id, function, status, n}, …]`, or null: of so many that all is to be loaded anew. */
const listeners = new Set();
let connection = null;
let on = false;

/** Whether changes are told at this moment. */
export function isLive() {
  return on;
}

/** Until `signal`. */
export function heard(listener, signal) {
  listeners.add(listener);
  signal.addEventListener("abort", () => listeners.delete(listener));
}

/** Begins to listen, unless it does already. A tab that nobody sees does not: browsers allow six connections together. */
export function listen() {
  if (connection || document.hidden) return;
  connection = new AbortController();
  follow(connection).finally(() => (on = false));
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return listen();
  connection?.abort();
  connection = null;
});

async function follow(own) {
  let last = "";
  while (!own.signal.aborted) {
    try {
      // Not by EventSource, which can send no key.
      const headers = { accept: "text/event-stream", ...(last ? { "last-event-id": last } : {}) };
      const answer = await request("v1/live", { signal: own.signal, headers });
      if (!answer.ok) {
        await answer.body?.cancel();
        // Refused, or there is no such thing here: it is asked again when there is a key, or the tab is seen again.
        if (answer.status < 500 || answer.status === 501) break;
      } else {
        on = true;
        for await (const message of messages(answer.body)) {
          last = message.id || last;
          if (message.event === "runs") tell(JSON.parse(message.data));
          else if (message.event === "resync") tell(null);
        }
      }
    } catch {
      // The engine is away: pages say so, and it comes back.
    }
    on = false;
    if (!own.signal.aborted) await new Promise((done) => setTimeout(done, AGAIN_MS));
  }
  if (connection === own) connection = null;
}

function tell(changes) {
  for (const listener of listeners) listener(changes);
}

/** The messages of a stream of server-sent events. */
async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let message = {};
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const [name, text] = line.split(/: ?(.*)/s);
      if (line === "") {
        if (message.event) yield message;
        message = {};
      } else if (name) message[name] = name in message ? `${message[name]}\n${text}` : text;
    }
  }
}
