// All runs that fit the filters, cancelled or run again, and past events that start a function: counted first, done by
// the engine, watched here.

import { Problem, ask, part } from "./api.js";
import { bdi, dialog, fill, h } from "./dom.js";
import { moment as at, plural } from "./format.js";

const WORDS = {
  cancel: { title: "Cancel all of these?", act: "Cancel them", doing: "cancelled", note: "Those that have ended stay as they are." },
  rerun: { title: "Re-run all of these?", act: "Re-run them", doing: "begun again", note: "Each becomes a new run, linked with the first." },
  backfill: { title: "Start it for past events?", act: "Start them", doing: "started", note: "Each event starts it once, however often it is asked for. What came since the event does not count for its waits and cancel rules." },
}; // prettier-ignore
const EVERY_MS = 500;

/** `filters`: as in the URL of the list. `look` is called when it is done. */
export function bulk(action, filters, look) {
  const words = WORDS[action];
  // The same id again makes no second job.
  const asked = { action, id: crypto.randomUUID(), ...filters };
  if (filters.metadata) {
    const [name, ...value] = filters.metadata.split("=");
    asked.metadata = { [name]: value.join("=") };
  }
  if (filters.since) asked.since = moment(filters.since);
  const body = h("div");
  const over = new AbortController();
  dialog(words.title, (close) => {
    count(asked, words, body, close, () => start(asked, words, body, over.signal).then(look, () => {}));
    return body;
  }).addEventListener("close", () => over.abort());
}

const PAST = [["1h", "the last hour"], ["24h", "the last 24 hours"], ["7d", "the last 7 days"], ["30d", "the last 30 days"]]; // prettier-ignore

/** Which past events are to start the function, and how fast. */
export function backfill(id, look) {
  dialog(`Backfill ${id}`, (close) => {
    const since = h("select", { "aria-label": "Events of" }, PAST.map(([value, words]) => h("option", { value }, words)));
    const where = h("input", { "aria-label": "Condition", placeholder: "event.data.total > 100", spellcheck: "false" });
    const rate = h("input", { type: "number", min: 1, max: 999_999, value: 50, "aria-label": "Runs a second, at most" });
    const submit = (event) => {
      event.preventDefault();
      const filters = { function: id, since: since.value };
      if (where.value.trim()) filters.where = where.value.trim();
      if (rate.value) filters.rate = Number(rate.value);
      close();
      bulk("backfill", filters, look);
    };
    return h("form", { on: { submit } },
      h("p.hint", null, "A run for each event that its triggers fit and that has not started it: for a function that is new, or that asks for more than it did."),
      h("label.field", null, h("span", null, "Events of"), since),
      h("label.field", null, h("span", null, "Condition, if not all of them"), where),
      h("label.field", null, h("span", null, "Runs a second, at most; empty for no limit"), rate),
      h("p.actions", null, h("button", { type: "button", on: { click: close } }, "Close"), h("button.primary", null, "Count them")),
    ); // prettier-ignore
  });
}

/** `7d`, as filters have it, or a moment in full. */
function moment(since) {
  const found = /^(\d+)([hd])$/.exec(since);
  return found ? Date.now() - Number(found[1]) * (found[2] === "d" ? 86_400_000 : 3_600_000) : Number(since) || Date.parse(since);
}

async function count(asked, words, body, close, go) {
  fill(body, h("p.hint", null, "Counting …"));
  try {
    const { count } = await ask("v1/jobs", { method: "POST", body: JSON.stringify({ ...asked, dry_run: true }) });
    const which = Object.entries(asked).filter(([name]) => name !== "action" && name !== "id");
    fill(body,
      h("p", null, h("b", null, plural(count, "run")), which.length ? " with " : "", which.map(([name, value], index) => [index ? ", " : "", `${name} `, h("bdi.tag", null, name === "since" ? at(value) : typeof value === "string" ? value : JSON.stringify(value))])),
      h("p.hint", null, words.note),
      h("p.actions", null, h("button", { type: "button", on: { click: close } }, "Close"), count ? h("button.danger", { type: "button", on: { click: go } }, words.act) : null),
    ); // prettier-ignore
  } catch (error) {
    failed(body, error);
  }
}

async function start(asked, words, body, signal) {
  try {
    let job = await ask("v1/jobs", { method: "POST", body: JSON.stringify(asked) });
    for (;;) {
      const { done = 0, failed = 0 } = job;
      const over = job.state === "finished";
      const bar = h("progress", { max: Math.max(job.count, 1), value: over ? Math.max(job.count, 1) : done, "aria-label": "Progress" });
      fill(body,
        bar,
        h("p", { role: "status" }, `${(done - failed).toLocaleString()} of ${plural(job.count, "run")} ${words.doing}`, failed ? `, ${failed.toLocaleString()} refused` : "", over ? ". Done." : " …"),
        job.error ? h("p.wrong", null, bdi(job.error)) : null,
        h("p.hint", null, over ? null : "It goes on also when this is closed."),
      ); // prettier-ignore
      if (over || signal.aborted) return;
      await new Promise((done) => setTimeout(done, EVERY_MS));
      job = await ask(`v1/jobs/${part(job.id)}`);
    }
  } catch (error) {
    failed(body, error);
  }
}

function failed(body, error) {
  if (!(error instanceof Problem)) throw error;
  fill(body, h("p.wrong", { role: "alert" }, bdi(error.message)));
}
