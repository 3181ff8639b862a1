// What changes something: each asks first where it cannot be taken back, and leads to what came of it.

import { Problem, ask, part, pretty } from "./api.js";
import { bdi, dialog, h, toast } from "./dom.js";
import { short } from "./format.js";

/** Does it, and says what was refused. */
export async function attempt(what) {
  try {
    return await what();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) window.dispatchEvent(new CustomEvent("perdure:refused", { detail: error }));
    else toast(error.message, "bad");
    return undefined;
  }
}

export function see(run_id) {
  location.hash = `#/runs/${part(run_id)}`;
}

export async function rerun(id) {
  const made = await attempt(() => ask(`v1/runs/${part(id)}/rerun`, { method: "POST" }));
  if (!made) return;
  toast("Runs again, as a new run");
  see(made.run_id);
}

export async function unpark(id, look) {
  if (await attempt(() => ask(`v1/runs/${part(id)}/unpark`, { method: "POST" }))) toast("It tries to go on");
  look();
}

/** Its runs are kept and wait; those that have begun go on. */
export function pause(id, look) {
  dialog(`Pause ${id}?`, (close) => {
    const submit = async (event) => {
      event.preventDefault();
      if (!(await attempt(() => ask(`v1/functions/${part(id)}/pause`, { method: "POST" })))) return;
      close();
      toast("Paused: its new runs wait");
      look();
    };
    return h("form", { on: { submit } },
      h("p", null, "Events and schedules still ask for runs of it. They wait until you resume it, and none is lost; what has begun goes on."),
      h("p.actions", null, h("button", { type: "button", on: { click: close } }, "Leave it"), h("button.primary", null, "Pause it")),
    ); // prettier-ignore
  });
}

export async function resume(id, look) {
  if (await attempt(() => ask(`v1/functions/${part(id)}/resume`, { method: "POST" }))) toast("Resumed: what waits begins, in its order");
  look();
}

export function cancelRun(run, look) {
  dialog("Cancel this run?", (close) => {
    const reason = h("input", { "aria-label": "Reason", placeholder: "Reason (others will see it)", maxlength: 1000 });
    const submit = async (event) => {
      event.preventDefault();
      const done = await attempt(() => ask(`v1/runs/${part(run.id)}`, { method: "DELETE", query: [["reason", reason.value]] }));
      if (!done) return;
      close();
      toast("Cancelled: it will not complete");
      look();
    };
    return h("form", { on: { submit } },
      h("p", null, bdi(run.function, "b"), " ", short(run.id), " stops where it is, and will not complete."),
      reason,
      h("p.actions", null, h("button", { type: "button", on: { click: close } }, "Keep it"), h("button.danger", null, "Cancel the run")),
    ); // prettier-ignore
  });
}

/** A field with JSON in it. `read()` gives what is there as it was written, or says what is wrong and gives null. */
export function jsonField(label, value, { object = true, any = false } = {}) {
  const field = h("textarea", { "aria-label": label, spellcheck: "false", rows: Math.min(16, value.split("\n").length + 1) });
  field.value = value;
  const wrong = h("p.wrong", { role: "alert" });
  const read = () => {
    wrong.textContent = "";
    try {
      const found = JSON.parse(field.value.trim() || (any ? "null" : object ? "{}" : "[]"));
      const fits = any || (object ? found !== null && typeof found === "object" && !Array.isArray(found) : Array.isArray(found));
      if (!fits) throw new Error(`${label} is ${object ? 'an object, such as {"id": 1}' : "a list, such as [1, 2]"}`);
      // The text itself is sent: numbers of 64 bits would not survive in JavaScript's.
      return field.value.trim() || (any ? "null" : object ? "{}" : "[]");
    } catch (error) {
      wrong.textContent = error instanceof SyntaxError ? `${label} is no JSON: ${error.message}` : error.message;
      field.focus();
      return null;
    }
  };
  return { node: h("label.field", null, h("span", null, label), field, wrong), read };
}

/** Sends an event; after it, the page of the run that it started for `of`, or of what it did. */
export function sendEvent({ title = "Send an event", names = [], data, user, of = "" } = {}) {
  eventForm({ title, names, name: names[0] ?? "", data, user, act: "Send" }, async (event) => {
    const sent = await attempt(() => ask("e/dashboard", { method: "POST", body: event }));
    if (sent) await follow(sent.ids[0], of);
    return sent;
  });
}

/** A form with an event in it; `done` gets its JSON, and what it gives says whether it is done. */
function eventForm({ title, names = [], name, data = {}, user = {}, note = null, act }, done) {
  dialog(title, (close) => {
    const named = h("input", { value: name, "aria-label": "Name", required: true, spellcheck: "false", list: "names" });
    const dataField = jsonField("Data", pretty(data));
    const userField = jsonField("User", pretty(user));
    const submit = async (event) => {
      event.preventDefault();
      const read = [dataField.read(), userField.read()];
      if (read.includes(null)) return;
      const body = `{"name":${JSON.stringify(named.value)},"data":${read[0]},"user":${read[1]}}`;
      if (await done(body)) close();
    };
    return h("form", { on: { submit } },
      note,
      h("label.field", null, h("span", null, "Name"), named),
      h("datalist", { id: "names" }, names.map((one) => h("option", { value: one }))),
      dataField.node, userField.node,
      h("p.actions", null, h("button", { type: "button", on: { click: close } }, "Close"), h("button.primary", null, act)),
    ); // prettier-ignore
  });
}

async function follow(event_id, of) {
  const started = await attempt(() => ask(`v1/events/${part(event_id)}/runs`));
  const runs = started?.data ?? [];
  const own = runs.find((one) => one.function === of) ?? (runs.length === 1 ? runs[0] : undefined);
  toast(runs.length ? `Sent: ${runs.length === 1 ? "one run" : `${runs.length} runs`} began` : "Sent: it started no run");
  location.hash = own ? `#/runs/${part(own.id)}` : `#/events/${part(event_id)}`;
}

/** Starts a function with arguments. `again`: the run that it goes again for. */
export function callFunction(id, { title = `Call ${id}`, args = [], kwargs = {}, again } = {}) {
  dialog(title, (close) => {
    const argsField = jsonField("Arguments in order", pretty(args), { object: false });
    const kwargsField = jsonField("Arguments by name", pretty(kwargs));
    const submit = async (event) => {
      event.preventDefault();
      const read = [argsField.read(), kwargsField.read()];
      if (read.includes(null)) return;
      if (await start(id, read[0], read[1], again)) close();
    };
    return h("form", { on: { submit } },
      argsField.node, kwargsField.node,
      h("p.actions", null, h("button", { type: "button", on: { click: close } }, "Close"), h("button.primary", null, "Start")),
    ); // prettier-ignore
  });
}

/** `args` and `kwargs` are JSON as it was written. */
async function start(id, args, kwargs, again) {
  const more = again ? `,"metadata":${JSON.stringify(again.metadata ?? {})},"rerun_of":${JSON.stringify(again.id)}` : "";
  const body = `{"args":${args},"kwargs":${kwargs}${more}}`;
  const made = await attempt(() => ask(`v1/functions/${part(id)}/runs`, { method: "POST", body }));
  if (!made) return false;
  toast("Started");
  see(made.run_id);
  return true;
}

/** A run again, of an event or of arguments that are changed before. */
export function editAndRerun(detail) {
  const { run } = detail;
  const [args, kwargs] = Array.isArray(detail.arguments) ? detail.arguments : [[], {}];
  // A re-run with another event has that as its argument.
  const event = detail.event ?? (args.length === 1 && typeof args[0]?.name === "string" && args[0].data ? args[0] : undefined);
  if (event && !Array.isArray(event)) {
    const note = h("p.hint", null, "A new run of ", bdi(run.function, "b"), " alone; other functions do not hear of it.");
    const form = { title: "Re-run with another event", name: event.name, data: event.data ?? {}, user: event.user ?? {}, note, act: "Run" };
    eventForm(form, (written) => start(run.function, `[${written}]`, "{}", run));
    return;
  }
  callFunction(run.function, { title: "Re-run with other arguments", args, kwargs, again: run });
}

/** What the command line would be asked, to be pasted into a shell. */
export function commands(run) {
  const here = new URL(".", location.href);
  const own = here.origin === "http://127.0.0.1:8288" && here.pathname === "/";
  const at = own ? "" : ` --url ${quoted(here.href.replace(/\/$/, ""))}`;
  const id = quoted(run.id);
  return [
    ["Show", `perdure runs show ${id}${at}`],
    ["Logs", `perdure logs ${id} -f${at}`],
    ["Re-run", `perdure runs rerun ${id}${at}`],
    ["Cancel", `perdure runs cancel ${id}${at}`],
  ];
}

function quoted(text) {
  return /^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

