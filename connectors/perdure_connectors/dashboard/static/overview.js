// Overview: how much there is to do, what was done over time, and what fails most.

import { Problem, ask, number, part } from "./api.js";
import { bdi, fill, h } from "./dom.js";
import { ago, errorName, moment, percent, plural, span, when } from "./format.js";

const TIMES = [["1h", "1 hour"], ["24h", "24 hours"], ["7d", "7 days"], ["30d", "30 days"]]; // prettier-ignore
const USUAL = "24h";
const PARTITIONS_SHOWN = 48;

export function overview(view) {
  const body = h("div");
  const tools = h("div.pills", { role: "group", "aria-label": "Time" });
  fill(view.root, h("header.head", null, h("h1", null, "Overview"), tools), body);
  const look = view.watch(async (signal) => {
    try {
      fill(body, page(await ask("v1/overview", { query: [["since", view.query.get("since") ?? USUAL]], signal })));
      return true;
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 501) throw error;
      fill(body, h("div.empty", { "data-loaded": true }, h("h2", null, "There is no history here"), h("p", null, "perdure dev and serve keep one, on a log that is not in memory; a gateway answers from one with --history or --data. What runs now is in ", h("a", { href: "#/runs" }, "Runs"), ".")));
      return false;
    }
  });
  const bar = () => {
    const now = view.query.get("since") ?? USUAL;
    const choose = (since) => {
      view.set({ since: since === USUAL ? "" : since });
      bar();
      look();
    };
    fill(tools, TIMES.map(([since, label]) => h("button.pill", { type: "button", "aria-pressed": String(since === now), on: { click: () => choose(since) } }, label)));
  };
  bar();
}

function page(told) {
  const functions = told.functions ?? [];
  const sum = (name) => functions.reduce((total, one) => total + (one[name] ?? 0), 0);
  const lag = Object.values(told.lag ?? {}).reduce((total, one) => total + one, 0);
  const live = told.live ?? {};
  const total = joined(functions);
  if (!sum("started") && !sum("finished") && !Object.values(live).some(Boolean)) {
    return h("div.empty", { "data-loaded": true }, h("h2", null, "Nothing has run in this time"), h("p", null, "Send an event with ", h("code", null, "perdure send NAME --data '{}'"), ", or from ", h("a", { href: "#/functions" }, "Functions"), "."));
  }
  return [
    h("ul.numbers", { "data-key": "numbers", "data-loaded": true },
      tile("Started", sum("started"), "#/runs"),
      tile("Completed", sum("completed"), "#/runs?status=completed", "completed"),
      tile("Failed", sum("failed"), "#/runs?status=failed", "failed"),
      tile("Queued", live.queued ?? 0, "#/runs?status=queued"),
      tile("Under way", live.running ?? 0, "#/runs"),
      tile("Parked", live.parked ?? 0, "#/runs?status=parked", "parked"),
      h("li", { title: "Records of the log that were not folded yet" }, h("span", null, "Lag"), h("b", null, large(lag)))),
    h("section.panel", { "aria-label": "Runs over time", "data-key": "over time" }, h("h2.over", null, "Runs over time", legend()), chart(total, told, "large")),
    h("div.split", { "data-key": "queues" },
      h("section", { "aria-label": "What waits" }, h("h2.over", null, "What waits"), waits(told.waits ?? {})),
      h("section", { "aria-label": "Lag by partition" }, h("h2.over", null, "Lag by partition"), lags(told.lag ?? {}))),
    h("div.split", { "data-key": "split" },
      h("section", { "aria-label": "Functions" }, h("h2.over", null, "Functions"), table(functions, told)),
      h("section", { "aria-label": "What fails most" }, h("h2.over", null, "What fails most"), failing(told.failing ?? []))),
    told.behind ? h("p.hint", null, `History is ${plural(told.behind, "record")} behind the engine.`) : null,
  ]; // prettier-ignore
}

/** What cannot go on yet, and where to see it. */
function waits({ paused = {}, delayed = 0, held = 0, queues = [] }) {
  const row = (key, what, why, ...count) => h("li", { "data-key": key }, h("span", null, what), h("span.hint", null, why), h("span.much", null, ...count));
  const some = (count, word) => h("span", { "data-status": count ? "parked" : null }, `${count.toLocaleString()} ${word}`);
  const rows = Object.entries(paused).map(([name, count]) =>
    row(`paused ${name}`, h("a", { href: "#/functions", "data-row": true }, bdi(name, "b")), "is paused", some(count, count === 1 ? "run waits" : "runs wait")));
  if (delayed) rows.push(row("delayed", h("a", { href: "#/runs?status=queued", "data-row": true }, "Delayed"), "start at a later time", some(delayed, delayed === 1 ? "run" : "runs")));
  if (held) rows.push(row("held", h("a", { href: "#/functions", "data-row": true }, "Held"), "for code that this process lacks", some(held, held === 1 ? "run" : "runs")));
  for (const { queue, waiting, taken, resting } of queues) {
    rows.push(row(`queue ${queue}`, bdi(queue, "b"), "queue of a worker pool", some(waiting, waiting === 1 ? "step waits" : "steps wait"), `${taken.toLocaleString()} under way`, resting ? some(resting, "to be tried again") : null));
  }
  return rows.length ? h("ul.waits", null, rows) : h("p.hint", null, "No function is paused, and no run is delayed or held.");
} // prettier-ignore

/** By partition, those that are farthest behind if there are very many. */
function lags(lag) {
  const all = Object.entries(lag);
  if (!all.some(([, behind]) => behind)) return h("p.hint", null, all.length ? `${plural(all.length, "partition")}, read to the end.` : "No partition is at hand here.");
  const shown = all.sort(([, a], [, b]) => b - a).slice(0, PARTITIONS_SHOWN);
  const byNumber = [...shown].sort(([a], [b]) => a.localeCompare(b, undefined, { numeric: true }));
  return [
    h("ul.lags", null, byNumber.map(([partition, behind]) => h("li", { "data-key": partition, "data-status": behind ? "parked" : null, title: `Partition ${partition}: ${plural(behind, "record")} not folded yet` }, h("span", null, partition), h("b", null, behind.toLocaleString())))),
    all.length > shown.length ? h("p.hint", null, `The ${shown.length} farthest behind, of ${all.length}.`) : null,
  ];
} // prettier-ignore

function tile(name, count, href, status) {
  return h("li", { "data-status": count ? status : null }, h("a", { href, "data-row": true }, h("span", null, name), h("b", null, large(count))));
}

/** As it fits into a tile. */
function large(count) {
  return count < 100_000 ? count.toLocaleString() : count.toLocaleString(undefined, { notation: "compact", maximumFractionDigits: 1 });
}

function legend() {
  return h("span.legend", { "aria-hidden": "true" }, [["running", "started"], ["completed", "finished"], ["failed", "failed"]].map(([kind, name]) => h("span", { "data-kind": kind }, h("i"), name)));
}

/** The buckets of all functions in one. */
function joined(functions) {
  const found = new Map();
  for (const { buckets = [] } of functions) {
    for (const one of buckets) {
      const all = found.get(one.at) ?? { at: one.at, started: 0, finished: 0, failed: 0 };
      for (const name of ["started", "finished", "failed"]) all[name] += one[name] ?? 0;
      found.set(one.at, all);
    }
  }
  return [...found.values()];
}

/** A column for each time: what finished, and on it what failed; and a line as high as what started. */
function chart(buckets, told, size) {
  const { since, until, bucket_ms: step } = told;
  const known = new Map(buckets.map((one) => [one.at, one]));
  const first = buckets.length ? buckets[0].at - Math.ceil((buckets[0].at - since) / step) * step : since;
  const columns = [];
  for (let at = first; at < until; at += step) columns.push({ at, started: 0, finished: 0, failed: 0, ...known.get(at) });
  const most = Math.max(1, ...columns.map((one) => Math.max(one.started, one.finished)));
  const total = (name) => columns.reduce((sum, column) => sum + column[name], 0);
  const label = `${total("started")} started, ${total("finished")} finished, ${total("failed")} failed`;
  const bars = columns.map(({ at, started, finished, failed }) => {
    const column = h("span.column", { title: `${moment(at)}: ${started} started, ${finished} finished, ${failed} failed` });
    for (const [kind, count] of [["running", started], ["failed", failed], ["completed", finished - failed]]) {
      if (!count) continue;
      const part = h("span", { "data-kind": kind });
      part.style.setProperty("--size", `${((count / most) * 100).toFixed(2)}%`);
      column.append(part);
    }
    return column;
  });
  return [
    h("div.columns", { role: "img", "aria-label": label, "data-size": size }, bars),
    size === "large" ? h("div.scale", { "aria-hidden": "true" }, h("span", null, ago(since, until)), h("span", null, `at most ${most.toLocaleString()} in ${span(step)}`), h("span", null, "now")) : null,
  ];
}

function table(functions, told) {
  if (!functions.length) return h("p.hint", null, "None has run in this time.");
  return h("ul.rates", null, functions.map((one) => {
    const rate = one.success_rate === undefined || one.success_rate === null ? "–" : percent(one.success_rate);
    const took = one.p50_ms === undefined || one.p50_ms === null ? "" : `p50 ${span(number(one.p50_ms))} · p95 ${span(number(one.p95_ms))}`;
    return h("li", { "data-key": one.function },
      h("a", { href: `#/runs?function=${part(one.function)}`, "data-row": true }, bdi(one.function, "b")),
      chart(one.buckets ?? [], told, "small"),
      h("span.rate", { "data-status": one.failed ? "failed" : one.completed ? "completed" : null }, rate, rate === "–" ? null : h("span", null, " succeeded")),
      h("span.hint", null, plural(one.started ?? 0, "run"), took ? ` · ${took}` : null));
  })); // prettier-ignore
}

function failing(list) {
  if (!list.length) return h("p.hint", null, "Nothing has failed in this time.");
  return h("ul.failing", null, list.map((one) =>
    h("li", { "data-key": one.function },
      h("p", null, h("a", { href: `#/runs?function=${part(one.function)}&status=failed`, "data-row": true }, bdi(one.function, "b")), ` failed ${one.failed === 1 ? "once" : `${one.failed.toLocaleString()} times`}`),
      one.error ? h("p.said", null, h("b", null, errorName(one.error.type)), ": ", bdi(one.error.message)) : null,
      one.run ? h("p.hint", null, h("a", { href: `#/runs/${part(one.run)}` }, "See the last one"), ", ", when(one.at)) : null),
  )); // prettier-ignore
}
