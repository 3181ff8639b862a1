// Times, lengths, statuses and JSON, as people read them.

import { h } from "./dom.js";
import { number, pretty } from "./api.js";

export const ENDED = new Set(["completed", "failed", "cancelled", "discarded"]);
export const STATUSES = ["queued", "running", "suspended", "parked", "completed", "failed", "cancelled", "discarded"];
const MARKS = {
  queued: "○", running: "◐", suspended: "◔", parked: "■", completed: "✓", failed: "✕", cancelled: "⊘", discarded: "⊘",
  open: "◐", closed: "⊘",
}; // prettier-ignore
const WORDS = { suspended: "waiting", open: "open", closed: "closed" };

/** A status in colour, with its mark and its word. */
export function chip(status, word) {
  return h("span.chip", { "data-status": status }, h("span.mark", { "aria-hidden": "true" }, MARKS[status] ?? "·"), word ?? WORDS[status] ?? status);
}

const UNITS = [
  [86_400_000, "d"],
  [3_600_000, "h"],
  [60_000, "m"],
  [1000, "s"],
];

/** 3 ms, 1.24 s, 2m 5s, 3d 4h. */
export function span(ms) {
  if (ms < 1) return ms <= 0 ? "0 ms" : `${Math.max(1, Math.round(ms * 1000))} µs`;
  if (ms < 1000) return `${ms < 10 ? Math.round(ms * 10) / 10 : Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1).replace(/\.?0+$/, "")} s`;
  const at = UNITS.findIndex(([unit]) => ms >= unit);
  const [unit, name] = UNITS[at];
  const [next, small] = UNITS[at + 1];
  const rest = Math.floor((ms % unit) / next);
  return `${Math.floor(ms / unit)}${name}${rest ? ` ${rest}${small}` : ""}`;
}

/** As `span`, without what is less than a second. */
export function round(ms) {
  return span(Math.max(1000, Math.floor(Math.abs(ms) / 1000) * 1000));
}

/** How long ago, or how far ahead. */
export function ago(at, now = Date.now()) {
  const ms = now - at;
  if (Math.abs(ms) < 1500) return "now";
  return ms > 0 ? `${round(ms)} ago` : `in ${round(ms)}`;
}

const DAY = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

/** The moment in full, in the reader's own zone. */
export function moment(at) {
  return `${DAY.format(at)}, ${clock(at)}`;
}

export function clock(at) {
  return `${CLOCK.format(at)}.${String(Math.floor(at) % 1000).padStart(3, "0")}`;
}

/** How long ago, with the moment in full for who points at it. */
export function when(at) {
  return h("time", { datetime: new Date(at).toISOString(), title: moment(at), "data-at": at }, ago(at));
}

/** The beginning and the end of an id, with all of it for who points at it. */
export function short(id) {
  return h("bdi.id", { title: id }, id.length > 20 ? `${id.slice(0, 8)}…${id.slice(-6)}` : id);
}

const LARGEST = 200_000;
const TOKENS = /("(?:[^"\\]|\\.)*")(\s*:)?|(-?\d[\d.eE+-]*)|\b(true|false|null)\b/g;

/** JSON in colours. What is very long is cut, and says so. */
export function json(value) {
  const whole = pretty(value);
  const text = whole.length > LARGEST ? whole.slice(0, LARGEST) : whole;
  const box = h("pre.block.json", { tabindex: 0 });
  let at = 0;
  for (const found of text.length > 50_000 ? [] : text.matchAll(TOKENS)) {
    if (found.index > at) box.append(text.slice(at, found.index));
    const kind = found[2] !== undefined ? "k" : found[1] !== undefined ? "s" : found[3] !== undefined ? "n" : "b";
    const token = found[1] ?? found[0];
    box.append(h(`span.${kind}`, null, token), found[2] ?? "");
    at = found.index + found[0].length;
  }
  box.append(text.slice(at));
  if (text.length < whole.length) box.append(h("em", null, `\n… ${(whole.length - LARGEST).toLocaleString()} more characters`));
  return box;
}

/** The last part of a Python class's name, and the whole of it for who points at it. */
export function errorName(type) {
  return h("bdi", { title: type }, String(type).replace(/^.*\./s, ""));
}

/** Of 1; only what is whole is 100 %. */
export function percent(share) {
  const value = number(share);
  return `${(value * 100).toFixed(value > 0.99 && value < 1 ? 2 : 0)} %`;
}

export function plural(count, word) {
  return `${count.toLocaleString()} ${word}${count === 1 ? "" : "s"}`;
}
