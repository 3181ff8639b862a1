// A run: its waterfall beside what the selected line took, gave, failed with and logged.

import { Problem, ask, part } from "./api.js";
import { bdi, copy, dialog, fill, h } from "./dom.js";
import { ENDED, chip, clock, errorName, json, moment, plural, short, span, when } from "./format.js";
import { forkFrom, forkable } from "./fork.js";
import { Past } from "./past.js";
import { row } from "./runs.js";
import { cancelRun, commands, editAndRerun, rerun, unpark } from "./steer.js";
import { NAMES, lines, scaleOf, waterfall } from "./waterfall.js";

const MOST_LOGS = 2000;
const PAGE_OF_LOGS = 500;

export function run(view) {
  const [id] = view.params;
  const parts = { head: h("div"), past: h("div"), now: h("div"), chart: h("section.chart", { "aria-label": "What happened when" }), side: h("section.side-by", { "aria-label": "Selected" }), below: h("div") };
  const logs = { lines: [], cursor: "", end: false };
  let detail;
  let drawn = false;

  const choose = (step) => {
    if ((view.query.get("step") ?? "") === step && drawn) return;
    view.set({ step });
    draw();
  };
  const past = new Past(view, id, () => {
    draw();
    if (past.opened && !past.mark) look();
  });
  view.keys.Escape = () => (view.query.get("step") ? choose("") : past.opened ? past.close() : (location.hash = "#/runs"));

  const look = view.watch(async (signal) => {
    detail = await ask(`v1/runs/${part(id)}`, { signal });
    await more(logs, id, signal);
    await past.read(detail, signal);
    draw();
    // What ended changes no more; runs that it started may, and lines come a moment later.
    return !(ENDED.has(detail.run.status) && logs.end && Date.now() - (detail.run.ended_at ?? 0) > 10_000);
  });

  function draw() {
    if (!detail) return;
    if (!drawn) fill(view.root, parts.head, parts.past, parts.now, h("div.split", { "data-loaded": true }, parts.chart, parts.side), parts.below);
    drawn = true;
    const whole = lines(detail, Math.max(Date.now(), detail.run.requested_at));
    const at = past.isPast ? past.records[past.index].at : undefined;
    const shown = past.isPast ? past.cut(detail) : detail;
    view.title(`${detail.run.function} ${detail.run.status}`);
    fill(parts.head, head(detail, look));
    fill(parts.past, past.draw(shown.run.status));
    fill(parts.now, at === undefined ? nowOf(detail, look) : waitingOf(shown));
    const all = at === undefined ? whole : lines(shown, at);
    const step = view.query.get("step") ?? "";
    const chosen = all.find((line) => line.key === step) ?? all[0];
    const open = past.opened ? null : h("button.icon", { type: "button", on: { click: () => past.open() } }, "Step through its records");
    fill(parts.chart, h("h2.over", { "data-key": "over" }, "Timeline", open), waterfall(all, chosen.key, choose, scaleOf(whole), at));
    const op = (detail.ops ?? []).find((one) => one.op === chosen.op?.op);
    fill(parts.side, selected(shown, chosen, until(logs, at), op && forkable(op) ? () => forkFrom(detail, op) : null));
    fill(parts.below, relatives(shown));
  }
}

/** What had been logged by then. */
function until(logs, at) {
  return at === undefined ? logs : { ...logs, lines: logs.lines.filter((one) => one.at <= at) };
}

/** Reads what was logged since the last time. */
async function more(logs, id, signal) {
  logs.end = false;
  while (!logs.end && logs.lines.length < MOST_LOGS) {
    let page;
    try {
      page = await ask(`v1/runs/${part(id)}/logs`, { query: [["limit", String(PAGE_OF_LOGS)], ["cursor", logs.cursor]], signal });
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 404) throw error;
      page = { data: [], cursor: logs.cursor, end: true };
    }
    logs.lines.push(...page.data);
    logs.cursor = page.cursor;
    logs.end = page.end;
  }
  logs.end = true;
}

function head(detail, look) {
  const { run } = detail;
  const ended = ENDED.has(run.status);
  const editable = (detail.event && !Array.isArray(detail.event)) || detail.arguments;
  const button = (name, click, kind) => h(`button${kind ? `.${kind}` : ""}`, { type: "button", on: { click } }, name);
  return h("header.head.run", { "data-key": "head" },
    h("p.crumb", null, h("a", { href: "#/runs" }, "Runs"), " / ", h("a", { href: `#/runs?function=${part(run.function)}` }, bdi(run.function))),
    h("h1", null, bdi(run.function), " ", chip(run.status)),
    h("div.actions", null,
      run.status === "parked" ? button("Let it go on", () => unpark(run.id, look), "primary") : null,
      ended ? null : button("Cancel", () => cancelRun(run, look)),
      button("Re-run", () => rerun(run.id)),
      editable ? button("Edit and re-run", () => editAndRerun(detail)) : null,
      button("Copy as CLI", () => cli(run)),
    ),
    facts(detail),
  ); // prettier-ignore
}

function facts(detail) {
  const { run } = detail;
  const fact = (name, ...value) => h("div", null, h("dt", null, name), h("dd", null, ...value));
  const of = (id) => h("a", { href: `#/runs/${part(id)}` }, short(id));
  return h("dl.facts", null,
    fact("Run", short(run.id), h("button.icon", { type: "button", "aria-label": "Copy the id of the run", on: { click: () => copy(run.id, "Run id copied") } }, "copy")),
    fact("Began", when(run.requested_at)),
    run.ended_at ? fact("Took", span(run.ended_at - run.requested_at)) : null,
    run.event_id ? fact(detail.event?.name ? bdi(detail.event.name) : "Event", h("a", { href: `#/events/${part(run.event_id)}` }, short(run.event_id))) : null,
    run.event_id ? null : fact("Cause", { enqueue: "called by name", cron: "its schedule", call: "called by a run" }[run.cause] ?? run.cause),
    run.parent ? fact("Called by", of(run.parent)) : null,
    run.rerun_of ? fact(run.cause === "fork" ? "Fork of" : "Re-run of", of(run.rerun_of)) : null,
    Object.entries(run.metadata ?? {}).map(([name, value]) => fact(bdi(name), bdi(value))),
    Object.entries(detail.progress ?? {}).map(([name, value]) => fact(bdi(name), bdi(typeof value === "string" ? value : JSON.stringify(value)))),
  ); // prettier-ignore
}

function cli(run) {
  dialog("The same on the command line", () =>
    h("ul.commands", null, commands(run).map(([name, text]) =>
      h("li", null, h("span", null, name), h("code", null, text), h("button", { type: "button", on: { click: () => copy(text, "Command copied") } }, "Copy")),
    )),
  ); // prettier-ignore
}

/** What it does at this moment, or why it does nothing. */
function nowOf(detail, look) {
  const { run } = detail;
  if (ENDED.has(run.status)) return null;
  const told = detail.waiting ?? [];
  if (run.status === "parked") {
    return h("div.now", { "data-kind": "parked" }, h("h2", null, "Parked: its code asks for something else than its log holds"),
      h("pre.block", { tabindex: 0 }, detail.parked ?? ""),
      h("p.hint", null, "Put the code back, or change it so that it fits, and let the run go on; or run it again from its beginning."));
  } // prettier-ignore
  return told.length ? waits("Now", told) : null;
}

/** What it did at a moment that is over. */
function waitingOf({ run, waiting }) {
  if (ENDED.has(run.status)) return null;
  return waits("At this moment", waiting.length ? waiting : [{ why: run.status === "running" ? "its code runs" : `it is ${run.status}` }]);
}

function waits(title, told) {
  return h("div.now", null, h("h2", null, title), h("ul", null, told.map((one) => h("li", null, bdi(words(one.why)), one.until ? h("span.until", null, " · ", when(one.until)) : null))));
}

/** A join key reads as a condition: ["paid","data.id","s:7"] is paid where data.id is "7". */
function words(about) {
  return about.replace(/\["(?:[^"\\]|\\.)*"(?:,"(?:[^"\\]|\\.)*")*\]/s, (key) => {
    let parts;
    try {
      parts = JSON.parse(key);
    } catch {
      return key;
    }
    const [name, path, value = ""] = parts;
    const said = value.startsWith("s:") ? JSON.stringify(value.slice(2)) : value.replace(/^\w:/, "");
    return `${name}${path ? ` where ${path} is ${said}` : ""}`;
  });
}

function selected(detail, line, logs, fork) {
  const op = line.op;
  const block = (name, value) => (value === undefined ? null : [h("h3", null, name), json(value)]);
  const about = logs.lines.filter((one) => !op || one.op === op.op);
  const error = op ? op.error ?? op.attempts?.at(-1)?.error : detail.error;
  return [
    h("h2.over", { "data-key": "title" }, h("span.kind", null, NAMES[line.type] ?? line.type), bdi(line.name), " ", chip(op ? op.status : detail.run.status, op ? { open: op.running ? "running" : op.attempts?.length ? "retrying" : "open" }[op.status] : undefined)),
    h("div", { "data-key": `body ${line.key}` },
      failure(error),
      op ? [
        op.about ? h("p.about", null, bdi(words(op.about))) : null,
        op.run ? h("p", null, h("a", { href: `#/runs/${part(op.run)}` }, "See the run that it started")) : null,
        fork ? h("p.actions", null, h("button", { type: "button", on: { click: fork } }, "Re-run from here")) : null,
        block("Input", op.input === undefined ? undefined : ofArguments(op.input)), block("Output", op.result), attempts(op), pool(op),
      ] : [
        block("Output", detail.result),
        block("Event", detail.event),
        detail.arguments ? block("Arguments", ofArguments(detail.arguments)) : null,
        detail.trimmed ? h("p.hint", null, "Some of its records are older than the log keeps: this is what is left.") : null,
      ],
      logged(about, logs, !op),
    ),
  ]; // prettier-ignore
}

/** Positional ones as a list, named ones as an object; both only where there are both. */
function ofArguments(given) {
  if (!Array.isArray(given)) return given;
  const [args, kwargs] = given;
  if (!Object.keys(kwargs ?? {}).length) return args;
  return args.length ? { "*": args, ...kwargs } : kwargs;
}

function failure(error) {
  if (!error) return null;
  return h("div.failure", null,
    h("p", null, h("b", null, errorName(error.type)), ": ", bdi(error.message)),
    error.step ? h("p.hint", null, "in step ", bdi(error.step)) : null,
    error.traceback ? h("details", { open: true }, h("summary", null, "Traceback"), h("pre.block", { tabindex: 0 }, error.traceback)) : null,
  ); // prettier-ignore
}

function attempts(op) {
  const made = op.attempts ?? [];
  if (made.length < 2 && !made[0]?.error) return null;
  return [
    h("h3", null, "Attempts"),
    h("ol.attempts", null, made.map((one) =>
      h("li", null, h("span", null, String(one.number)), chip(one.error ? "failed" : "completed"), h("span", { title: moment(one.at) }, clock(one.at)), h("span", null, span((one.took_us ?? 0) / 1000)),
        h("span.said", null, one.error ? [errorName(one.error.type), ": ", bdi(one.error.message)] : null, one.retry_in_ms !== undefined && one.retry_in_ms !== null ? ` – again in ${span(one.retry_in_ms)}` : null)),
    )),
  ]; // prettier-ignore
}

function pool(op) {
  if (!op.queue) return null;
  return h("p.hint", null, "In the queue ", bdi(op.queue), op.dispatches ? `, put there ${plural(op.dispatches, "time")}` : null, op.member ? [", last taken by ", bdi(op.member)] : null, ".");
}

function logged(lines, logs, whole) {
  if (!lines.length) return whole ? [h("h3", null, "Logs"), h("p.hint", null, "It has logged nothing. ", h("code", null, "ctx.logger.info(…)"), " leaves lines here.")] : null;
  return [
    h("h3", null, "Logs"),
    h("ol.logs", { tabindex: 0 }, lines.map((one) =>
      h("li", { "data-level": one.level }, h("time", { title: moment(one.at) }, clock(one.at)), h("span.level", null, one.level), h("span.text", null, bdi(one.message), one.error ? h("pre", null, one.error) : null)),
    )),
    logs.lines.length >= MOST_LOGS ? h("p.hint", null, `The first ${MOST_LOGS.toLocaleString()} lines; the rest by `, h("code", null, "perdure logs"), ".") : null,
  ]; // prettier-ignore
}

function relatives(detail) {
  const list = (name, runs) =>
    runs?.length ? h("section", { "data-key": name }, h("h2.over", null, name), h("ul.list", null, runs.map((one) => row(one, null, { steer: false })))) : null;
  return [list("Runs that it started", detail.children), list("Re-runs of it", detail.reruns)];
}
