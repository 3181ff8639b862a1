// Events: what has come, and what each of them did, or why it did nothing.

import { Problem, ask, part } from "./api.js";
import { bdi, fill, h } from "./dom.js";
import { chip, json, plural, short, when } from "./format.js";
import { row } from "./runs.js";
import { sendEvent } from "./steer.js";

const TIMES = [["", "Any time"], ["1h", "Last hour"], ["24h", "Last 24 hours"], ["7d", "Last 7 days"]]; // prettier-ignore
const FILTERS = ["name", "since"];

export function events(view) {
  const list = h("div");
  const tools = h("div.tools");
  const field = h("input", { type: "search", "data-search": true, placeholder: "Name, such as cart/purchased", "aria-label": "Name of the event", spellcheck: "false", autocomplete: "off" });
  field.value = view.query.get("name") ?? "";
  const search = h("form.find", { role: "search" }, field, h("kbd", { "aria-hidden": "true" }, "/"));
  search.addEventListener("submit", (event) => {
    event.preventDefault();
    filter({ name: field.value.trim() });
  });
  const send = h("button", { type: "button", on: { click: () => sendEvent() } }, "Send an event");
  fill(view.root, h("header.head", null, h("h1", null, "Events"), search), tools, list);

  const look = view.watch(async (signal) => {
    const query = FILTERS.map((name) => [name, view.query.get(name) ?? ""]);
    draw(await ask("v1/events", { query: [...query, ["limit", "50"], ["cursor", view.query.get("cursor") ?? ""]], signal }));
  });
  const filter = (changes) => {
    view.set({ ...changes, cursor: "" }, { push: true });
    bar();
    look();
  };
  const bar = () => {
    const now = view.query.get("since") ?? "";
    const pills = TIMES.map(([since, label]) => h("button.pill", { type: "button", "aria-pressed": String(since === now), on: { click: () => filter({ since }) } }, label));
    fill(tools, h("div.pills", { role: "group", "aria-label": "Time" }, pills), send);
  };

  function draw(page) {
    const older = () => {
      view.set({ cursor: page.cursor }, { push: true });
      look();
      window.scrollTo(0, 0);
    };
    const back = view.query.get("cursor") ? h("button", { type: "button", on: { click: () => history.back() } }, "← Newer") : null;
    const more = page.cursor ? h("button", { type: "button", on: { click: older } }, "Older →") : null;
    fill(
      list,
      page.data.length ? h("ul.list", { "data-key": "list", "data-loaded": true, "aria-label": "Events" }, page.data.map(line)) : nothing(view, filter, page.cursor),
      back || more ? h("nav.pager", { "aria-label": "Pages of events" }, back, more) : null,
    );
  }

  bar();
}

function line(event) {
  const data = event.data === undefined ? `${event.bytes.toLocaleString()} bytes` : JSON.stringify(event.data);
  return h("li.row.event", { "data-key": event.id },
    h("a.open", { href: `#/events/${part(event.id)}`, "data-row": true },
      bdi(event.name, "b"), h("code.data", null, bdi(data)), short(event.id), when(event.received_at)),
  ); // prettier-ignore
}

function nothing(view, filter, cursor) {
  if (cursor) return h("div.empty", { "data-loaded": true }, h("h2", null, "Nothing on this page"), h("p", null, "The search has looked at a part of the events: go on with the older ones."));
  if (FILTERS.some((name) => view.query.get(name)) || view.query.get("cursor")) {
    return h("div.empty", { "data-loaded": true }, h("h2", null, "No event fits"), h("p", null, h("button", { type: "button", on: { click: () => filter({ name: "", since: "" }) } }, "Show all events")));
  }
  return h("div.empty", { "data-loaded": true }, h("h2", null, "No events yet"), h("p", null, "Any service may send them, by HTTP, by Kafka, or from a shell:"), h("pre.block", { tabindex: 0 }, "perdure send NAME --data '{}'"));
}

export function oneEvent(view) {
  const [id] = view.params;
  view.keys.Escape = () => (location.hash = "#/events");
  view.watch(async (signal) => {
    let told;
    try {
      told = await ask(`v1/events/${part(id)}`, { signal });
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 501) throw error;
      location.replace(`#/runs?event_id=${part(id)}`);
      return false;
    }
    view.title(told.event.name);
    fill(view.root, page(told));
    return true;
  });
}

function page(told) {
  const { event, runs = [], uses = [], decisions = [] } = told;
  const again = () => sendEvent({ title: "Send it again, changed", names: [event.name], data: event.data ?? {}, user: event.user ?? {} });
  const fact = (name, ...value) => h("div", null, h("dt", null, name), h("dd", null, ...value));
  return [
    h("header.head.run", null,
      h("p.crumb", null, h("a", { href: "#/events" }, "Events"), " / ", h("a", { href: `#/events?name=${part(event.name)}` }, bdi(event.name))),
      h("h1", null, bdi(event.name)),
      h("div.actions", null, h("button", { type: "button", on: { click: again } }, "Edit and send again")),
      h("dl.facts", null, fact("Event", h("bdi.id", null, event.id)), fact("Received", when(told.received_at)), runs.length ? fact("Began", plural(runs.length, "run")) : null)),
    told.nothing ? h("div.now", { "data-kind": "parked" }, h("h2", null, "It did nothing"), h("p", null, bdi(told.nothing))) : null,
    h("div.split", { "data-loaded": true },
      h("section", { "aria-label": "What it did" },
        h("h2.over", null, "What it did"),
        runs.length ? [h("h3", null, "Runs that it began"), h("ul.list", { "data-key": "runs" }, runs.map((one) => row(one, null, { steer: false })))] : null,
        uses.length ? [h("h3", null, "Runs that it reached"), h("ul.uses", { "data-key": "uses" }, uses.map(use))] : null,
        decisions.length ? [h("h3", null, "How each function decided"), h("ul.uses", { "data-key": "decisions" }, decisions.map(decision))] : null,
        !runs.length && !uses.length && !decisions.length ? h("p.hint", null, "No function listens to it, and no run waited for it.") : null),
      h("section", { "aria-label": "The event" }, h("h2.over", null, "The event"), json(event))),
  ]; // prettier-ignore
}

const DID = { matched: ["completed", "taken by a wait"], cancelled: ["cancelled", "cancelled it"] };

function use(one) {
  const [status, words] = DID[one.what] ?? ["open", one.what];
  return h("li", null, chip(status, words), " ", h("a", { href: `#/runs/${part(one.run)}` }, bdi(one.function), " ", short(one.run)), " ", when(one.at));
}

function decision(one) {
  const started = one.decision === "started";
  return h("li", null, chip(started ? "completed" : "closed", started ? "began" : "did not begin"), " ", bdi(one.function, "b"), h("p.hint", null, bdi(one.why ?? "")), one.run ? h("a", { href: `#/runs/${part(one.run)}` }, "See its run") : null);
}
