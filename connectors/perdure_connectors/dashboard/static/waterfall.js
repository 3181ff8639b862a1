// A run in time: a line for each of its ops, with its attempts and what was between them.

import { bdi, h } from "./dom.js";
import { moment, round, span } from "./format.js";

export const NAMES = { step: "step", sleep: "sleep", wait: "wait", call: "call", enqueue: "start", send: "send", watch: "result", cancel: "cancel", rerun: "re-run" }; // prettier-ignore

/** `detail`: a run as the API tells it. Lines: the run itself (key ""), then its ops in the order of their beginning. */
export function lines(detail, now) {
  const { run } = detail;
  const end = run.ended_at ?? now;
  const first = { key: "", name: run.function, type: "run", status: run.status, from: run.requested_at, to: end, bars: runBars(run, detail.ops ?? [], end) };
  const ops = (detail.ops ?? []).map((op) => opLine(op, end));
  return [first, ...ops];
}

/** The engine names waits and sent events by what they are about, too. */
export function titleOf(op) {
  return op.name.startsWith(`${op.type}:`) ? op.name.slice(op.type.length + 1) : op.name;
}

function runBars(run, ops, end) {
  const began = run.started_at ?? run.ended_at ?? (run.status === "queued" ? end : run.requested_at);
  const upto = Math.min(began, end, ...ops.map((op) => op.opened_at || end));
  const bars = upto > run.requested_at ? [bar("queued", run.requested_at, upto, `queued ${span(upto - run.requested_at)}`)] : [];
  if (end > upto || !bars.length) bars.push(bar(run.status, upto, end, `${run.status} ${span(end - upto)}`));
  return bars;
}

function bar(kind, from, to, title) {
  return { kind, from, to, title };
}

function opLine(op, end) {
  const attempts = op.attempts ?? [];
  const last = op.ended_at ?? (op.status === "open" ? end : attempts.at(-1)?.at ?? op.opened_at);
  const line = { key: op.op, name: titleOf(op), type: op.type, status: op.status, from: op.opened_at, to: last, op };
  line.bars = op.type === "step" ? stepBars(op, attempts, last) : [waitBar(op, last)];
  return line;
}

/** The attempts, each with what it took; after a failed one the time until the next. */
function stepBars(op, attempts, end) {
  const bars = [];
  let at = op.opened_at;
  for (const one of attempts) {
    const began = Math.max(op.opened_at, one.at - (one.took_us ?? 0) / 1000);
    if (began - at >= 1) bars.push(bar(bars.length ? "backoff" : "queued", at, began, bars.length ? `until the next attempt ${span(began - at)}` : `before it began ${span(began - at)}`));
    const what = one.error ? "failed" : "completed";
    bars.push(bar(what, began, one.at, `attempt ${one.number} ${what} after ${span((one.took_us ?? 0) / 1000)}`));
    at = one.at;
  }
  if (op.status === "open" && end > at) {
    const waits = attempts.length && !op.running;
    bars.push(bar(waits ? "backoff" : "running", at, end, waits ? "until the next attempt" : "running"));
  }
  return bars.length ? bars : [bar(op.status === "open" ? "running" : op.status, op.opened_at, end, op.status)];
}

function waitBar(op, end) {
  const kind = op.status === "failed" ? "failed" : { sleep: "sleep", wait: "wait", watch: "wait", call: "child", enqueue: "child" }[op.type] ?? "completed";
  return bar(kind, op.opened_at, end, `${NAMES[op.type] ?? op.type} ${span(end - op.opened_at)}`);
}

/**
 * Maps moments to 0…1. Where little happens for most of the time, a sleep of a day between steps of milliseconds,
 * lengths are drawn by their fifth root, so that both can be seen.
 */
export function scaleOf(all) {
  const moments = [...new Set(all.flatMap((line) => [line.from, line.to, ...line.bars.flatMap((one) => [one.from, one.to])]))].sort((a, b) => a - b);
  const [start, end] = [moments[0], moments.at(-1)];
  const length = Math.max(end - start, 1);
  const gaps = moments.slice(1).map((at, index) => at - moments[index]);
  const bent = gaps.length > 3 && Math.max(...gaps) > 0.75 * length && length > 5000;
  if (!bent) return { bent, start, end, of: (at) => (at - start) / length };
  const sizes = gaps.map((gap) => Math.max(gap, 0.5) ** 0.2);
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const places = [0];
  for (const size of sizes) places.push(places.at(-1) + size / total);
  const of = (at) => {
    const next = moments.findIndex((one) => one >= at);
    if (next <= 0) return next < 0 ? 1 : 0;
    const share = (at - moments[next - 1]) / gaps[next - 1];
    return places[next - 1] + share * (places[next] - places[next - 1]);
  };
  return { bent, start, end, of };
}

/**
 * The lines as buttons; `chosen` is the key of the selected one, `choose` is told of another. `at`: the moment that is
 * shown, where it is not the present.
 */
export function waterfall(all, chosen, choose, scale, at) {
  return [
    axis(scale),
    h("ul.lines", { "data-key": "lines" }, all.map((line) => lineOf(line, scale, line.key === chosen, choose, at))),
    scale.bent ? h("p.hint", null, "Long waits are drawn short: lengths are not to scale.") : null,
  ]; // prettier-ignore
}

function axis(scale) {
  const marks = scale.bent ? [0, 1] : [0, 0.5, 1];
  const ticks = marks.map((place) => {
    const at = scale.start + place * (scale.end - scale.start);
    const text = place === 0 ? "0" : `+${span(at - scale.start)}`;
    const tick = h("span", { title: moment(at), "data-place": place === 0 ? "first" : place === 1 ? "last" : null }, text);
    tick.style.setProperty("--x", `${place * 100}%`);
    return tick;
  });
  return h("div.axis", { "aria-hidden": "true" }, h("div.track", null, ticks));
}

function momentOf(place) {
  const mark = h("span.at", { "aria-hidden": "true" });
  mark.style.setProperty("--x", `${(place * 100).toFixed(3)}%`);
  return mark;
}

function lineOf(line, scale, selected, choose, at) {
  const bars = line.bars.map((one) => {
    const box = h("span.bar", { "data-kind": one.kind, title: one.title });
    const from = scale.of(one.from);
    box.style.setProperty("--from", `${(from * 100).toFixed(3)}%`);
    box.style.setProperty("--size", `${((scale.of(one.to) - from) * 100).toFixed(3)}%`);
    return box;
  });
  if (at !== undefined) bars.push(momentOf(scale.of(at)));
  const took = line.to > line.from ? span(line.to - line.from) : "";
  return h("li", { "data-key": line.key || "run" },
    h("button.line", { type: "button", "data-row": true, "data-type": line.type, "aria-current": selected ? "true" : null, on: { click: () => choose(line.key), focus: () => choose(line.key) } },
      h("span.name", null, h("span.kind", null, line.type === "run" ? "run" : NAMES[line.type] ?? line.type), h("bdi", { title: line.name }, line.name)),
      h("span.track", null, bars),
      h("span.took", { "data-status": line.status }, line.status === "open" && line.type !== "run" ? `${(at === undefined ? round : span)(line.to - line.from)} …` : took),
    ),
  ); // prettier-ignore
}


