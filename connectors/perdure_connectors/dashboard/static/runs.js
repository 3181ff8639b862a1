// Runs: what runs and what ran, newest first, by filters that stand in the URL.

import { Problem, ask, part } from "./api.js";
import { bulk } from "./bulk.js";
import { bdi, dialog, fill, h } from "./dom.js";
import { ENDED, STATUSES, chip, short, span, when } from "./format.js";
import { cancelRun, rerun } from "./steer.js";

const FILTERS = ["function", "status", "event_id", "since", "metadata", "where"];
const TIMES = [["", "Any time"], ["1h", "Last hour"], ["24h", "Last 24 hours"], ["7d", "Last 7 days"]]; // prettier-ignore
const SHOWN = ["running", "queued", "suspended", "parked", "completed", "failed", "cancelled"];

export function runs(view) {
  let functions = [];
  let cursors = [view.query.get("cursor") ?? ""];
  const list = h("div");
  const tools = h("div.tools");
  const search = finder(view, (event_id) => filter({ event_id }));
  fill(view.root, h("header.head", null, h("h1", null, "Runs"), search), tools, list);

  const look = view.watch(async (signal) => {
    const query = FILTERS.map((name) => [name, view.query.get(name) ?? ""]);
    const cursor = view.query.get("cursor") ?? "";
    try {
      draw(await ask("v1/runs", { query: [...query, ["limit", "50"], ["cursor", cursor]], signal }));
      return true;
    } catch (error) {
      if (!(error instanceof Problem) || ![400, 501].includes(error.status) || !FILTERS.some((name) => view.query.get(name))) throw error;
      fill(list, wrong(error, filter));
      return false;
    }
  }, { told: true });
  const bar = () => fill(tools, statuses(view, filter), h("div.more", { "data-key": "more" }, about(view, filter), select(view, functions, filter), times(view, filter), conditions(view, filter)));
  const filter = (changes) => {
    cursors = [""];
    view.set({ ...changes, cursor: "" }, { push: true });
    bar();
    look();
  };
  const all = (action) => bulk(action, Object.fromEntries(FILTERS.map((name) => [name, view.query.get(name)]).filter(([, value]) => value)), look);
  const turn = (cursor) => {
    view.set({ cursor }, { push: true });
    look();
    window.scrollTo(0, 0);
  };

  function draw(page) {
    const cursor = view.query.get("cursor") ?? "";
    const rows = page.data.map((one) => row(one, look));
    const back = cursor ? h("button", { type: "button", on: { click: () => history.back() } }, "← Newer") : null;
    const more = page.cursor ? h("button", { type: "button", on: { click: () => turn(page.cursor) } }, "Older →") : null;
    fill(
      list,
      rows.length
        ? h("ul.list", { "data-key": "list", "data-loaded": true, "aria-label": "Runs" })
        : nothing(view, filter, functions, page.cursor),
      rows.length && FILTERS.some((name) => view.query.get(name)) ? together(all) : null,
      back || more ? h("nav.pager", { "aria-label": "Pages of runs" }, back, more) : null,
    );
    if (rows.length) fill(list.querySelector("ul"), rows);
  }

  bar();
  ask("v1/functions", { signal: view.signal }).then(
    (found) => {
      functions = found.data;
      bar();
    },
    () => {}, // the list says what is wrong
  );
}

/** What may be done with all that fit the filters: without any, nobody does something with everything. */
function together(all) {
  const button = (name, action) => h("button", { type: "button", on: { click: () => all(action) } }, name);
  return h("p.together", { "data-key": "together" }, "All that fit: ", button("Cancel all …", "cancel"), " ", button("Re-run all …", "rerun"));
}

/** A field that finds a run or an event by its id. */
function finder(view, found) {
  const field = h("input", {
    type: "search", "data-search": true, placeholder: "Find by run or event id", "aria-label": "Find by run or event id",
    spellcheck: "false", autocomplete: "off",
  }); // prettier-ignore
  const submit = async (event) => {
    event.preventDefault();
    const id = field.value.trim();
    if (!id) return;
    try {
      await ask(`v1/runs/${part(id)}`, { signal: view.signal });
      location.hash = `#/runs/${part(id)}`;
    } catch (error) {
      if (!(error instanceof Problem)) return;
      field.value = "";
      found(id);
    }
  };
  return h("form.find", { role: "search", on: { submit } }, field, h("kbd", { "aria-hidden": "true" }, "/"));
}

function statuses(view, filter) {
  const now = view.query.get("status") ?? "";
  const one = (status, label) =>
    h("button.pill", { type: "button", "aria-pressed": String(now === status), on: { click: () => filter({ status }) } }, label);
  const known = STATUSES.includes(now) && !SHOWN.includes(now) ? [...SHOWN, now] : SHOWN;
  return h("div.pills", { role: "group", "aria-label": "Status", "data-key": "statuses" }, one("", "All"), known.map((status) => one(status, chip(status))));
}

function select(view, functions, filter) {
  const now = view.query.get("function") ?? "";
  const ids = functions.map((one) => one.id);
  if (now && !ids.includes(now)) ids.push(now);
  if (!ids.length) return null;
  const options = ids.map((id) => h("option", { value: id, selected: id === now }, id));
  return h("select", { "aria-label": "Function", "data-key": "function", on: { change: (event) => filter({ function: event.target.value }) } }, h("option", { value: "" }, "All functions"), options);
}

function times(view, filter) {
  const now = view.query.get("since") ?? "";
  const known = TIMES.some(([value]) => value === now) ? TIMES : [...TIMES, [now, `Since ${now}`]];
  const options = known.map(([value, label]) => h("option", { value, selected: value === now }, label));
  return h("select", { "aria-label": "Time", "data-key": "since", on: { change: (event) => filter({ since: event.target.value }) } }, options);
}

/** What runs have in their metadata, and what their event has. */
function conditions(view, filter) {
  const given = ["metadata", "where"].filter((name) => view.query.get(name));
  const open = () =>
    dialog("Search the history", (close) => {
      const metadata = h("input", { "aria-label": "Metadata", placeholder: "tenant=acme", spellcheck: "false", value: view.query.get("metadata") ?? "" });
      const where = h("input", { "aria-label": "Condition", placeholder: "event.data.total > 100", spellcheck: "false", value: view.query.get("where") ?? "" });
      const submit = (event) => {
        event.preventDefault();
        close();
        filter({ metadata: metadata.value.trim(), where: where.value.trim() });
      };
      return h("form", { on: { submit } },
        h("label.field", null, h("span", null, "Metadata of the run, as key=value"), metadata),
        h("label.field", null, h("span", null, "Condition on its event, as in where= of a trigger"), where),
        h("p.actions", null, h("button", { type: "button", on: { click: close } }, "Close"), h("button.primary", null, "Search")),
      ); // prettier-ignore
    });
  const label = given.length ? given.map((name) => view.query.get(name)).join(" and ") : "Search …";
  return [
    h("button.search", { type: "button", "data-key": "conditions", title: given.length ? label : null, on: { click: open } }, bdi(label)),
    given.length ? h("button.pill", { type: "button", "data-key": "clear", "aria-label": "Remove the conditions", on: { click: () => filter({ metadata: "", where: "" }) } }, "×") : null,
  ];
}

function wrong(error, filter) {
  const clear = () => filter(Object.fromEntries(FILTERS.map((name) => [name, ""])));
  return h("div.empty", { "data-loaded": true }, h("h2", null, error.status === 400 ? "This search cannot be read" : "There is no history to search"), h("p.said", null, bdi(error.message)), h("p", null, h("button", { type: "button", on: { click: clear } }, "Show all runs")));
}

/** Filters that have no field of their own, each with a way to let go of it. */
function about(view, filter) {
  const event = view.query.get("event_id");
  return event ? h("button.pill", { type: "button", "aria-pressed": "true", "aria-label": `Remove the filter by event ${event}`, on: { click: () => filter({ event_id: "" }) } }, "event ", short(event), " ×") : null;
}

/** One line of the list. */
export function row(run, look, { steer = true } = {}) {
  const ended = ENDED.has(run.status);
  const took = run.ended_at ? span(run.ended_at - run.requested_at) : "";
  const link = h("a.open", { href: `#/runs/${part(run.id)}`, "data-row": true },
    chip(run.status),
    h("span.what", null, bdi(run.function, "b"), " ", short(run.id)),
    h("span.why", null, cause(run)),
    h("span.times", null, when(run.requested_at), took ? h("span.took", null, took) : null),
  ); // prettier-ignore
  const act = ended
    ? h("button", { type: "button", "aria-label": `Re-run ${run.id}`, on: { click: () => rerun(run.id) } }, "Re-run")
    : h("button", { type: "button", "aria-label": `Cancel ${run.id}`, on: { click: () => cancelRun(run, look) } }, "Cancel");
  return h("li.row", { "data-key": run.id }, link, steer ? act : null);
}

/** What began it, in words. */
export function cause(run) {
  if (run.rerun_of) return [run.cause === "fork" ? "fork of " : "re-run of ", short(run.rerun_of)];
  if (run.parent) return ["called by ", short(run.parent)];
  if (run.event_id && run.cause !== "cron") return ["event ", short(run.event_id)];
  return [{ enqueue: "called by name", cron: "its schedule", call: "called" }[run.cause] ?? run.cause ?? ""];
}

function nothing(view, filter, functions, cursor) {
  const filtered = FILTERS.some((name) => view.query.get(name));
  if (cursor) return h("div.empty", { "data-loaded": true }, h("h2", null, "Nothing on this page"), h("p", null, "The search has looked at a part of the runs: go on with the older ones."));
  if (filtered || view.query.get("cursor")) {
    const clear = () => filter(Object.fromEntries(FILTERS.map((name) => [name, ""])));
    return h("div.empty", { "data-loaded": true }, h("h2", null, "No run fits these filters"), h("p", null, h("button", { type: "button", on: { click: clear } }, "Show all runs")));
  }
  const trigger = functions.flatMap((one) => one.triggers ?? []).find((name) => !name.includes("*")) ?? "NAME";
  return h("div.empty", { "data-loaded": true },
    h("h2", null, "No runs yet"),
    h("p", null, "Send an event, and the functions that listen to it run:"),
    h("pre.block", { tabindex: 0 }, `perdure send ${trigger} --data '{}'`),
    h("p", null, "or send one from ", h("a", { href: "#/functions" }, "Functions"), "."),
  ); // prettier-ignore
}

