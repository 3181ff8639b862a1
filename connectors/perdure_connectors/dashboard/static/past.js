// A run as it was after each of its records: a slider over them, and the run cut at the one that it stands at.

import { Problem, ask, part } from "./api.js";
import { bdi, fill, h, inert } from "./dom.js";
import { ENDED, chip, clock, moment, span } from "./format.js";

/** After the last move: browsers refuse an address that changes a hundred times in half a minute. */
const TELL_MS = 150;

/**
 * What a run's page shows of the past. The records are asked for once somebody wants to see them: to find them, the
 * engine reads all of the run's partition. `moved` is told when another moment is to be shown.
 */
export class Past {
  constructor(view, id, moved) {
    Object.assign(this, { view, id, moved });
    this.records = [];
    this.problem = null;
    this.at = view.query.get("at") ?? "";
    this.opened = this.at !== "";
    this.mark = "";
    this.said = h("p.which");
    this.range = h("input", { type: "range", min: 0, "aria-label": "Record of the run", on: { input: () => this.go(Number(this.range.value)) } });
    this.earlier = h("button", { type: "button", "aria-label": "One record earlier", on: { click: () => this.go(this.index - 1) } }, "‹");
    this.later = h("button", { type: "button", "aria-label": "One record later", on: { click: () => this.go(this.index + 1) } }, "›");
    const back = h("button", { type: "button", on: { click: () => this.close() } }, "Back to now");
    this.box = h("section.past", { "aria-label": "Its records" }, h("div.slide", null, this.earlier, this.range, this.later, back), this.said);
  }

  open() {
    this.opened = true;
    this.mark = "";
    this.moved();
  }

  close() {
    this.opened = false;
    this.move("");
  }

  /** The record that is looked at; the last one is the present. A place between two records is that of the first. */
  get index() {
    if (!/^\d+$/.test(this.at)) return this.records.length - 1;
    return Math.max(0, this.records.findLastIndex((one) => one.offset <= Number(this.at)));
  }

  get isPast() {
    return this.opened && this.index < this.records.length - 1;
  }

  go(index) {
    const last = this.records.length - 1;
    const wanted = Math.max(0, Math.min(index, last));
    this.move(wanted === last ? "" : String(this.records[wanted].offset));
  }

  move(at) {
    this.at = at;
    clearTimeout(this.telling);
    this.telling = setTimeout(() => this.view.signal.aborted || this.view.set({ at }), TELL_MS);
    this.moved();
  }

  /** Asks for the records if the run went on since the last time. */
  async read(detail, signal) {
    const mark = [detail.run.status, ...(detail.ops ?? []).map((op) => `${op.status} ${op.attempts?.length ?? 0}`)].join();
    if (!this.opened || mark === this.mark) return;
    try {
      this.records = (await ask(`v1/runs/${part(this.id)}/records`, { signal })).data;
      this.problem = null;
      this.mark = mark;
    } catch (error) {
      if (!(error instanceof Problem) || [0, 401, 503].includes(error.status)) throw error;
      this.problem = error;
      this.mark = mark;
    }
  }

  /** The slider, where it stands now; null while nobody wants it. `status`: of the run then. */
  draw(status) {
    if (!this.opened) return null;
    const { index, records } = this;
    const last = records.length - 1;
    this.range.disabled = last < 1;
    this.range.max = Math.max(last, 0);
    this.range.value = Math.max(index, 0);
    this.earlier.disabled = index <= 0;
    this.later.disabled = index >= last;
    const record = records[index];
    if (record) this.range.setAttribute("aria-valuetext", inert(`${index + 1} of ${records.length}: ${record.words}`));
    fill(this.said, this.problem ? h("span.wrong", null, bdi(this.problem.message)) : record ? which(record, index, records, status) : "Reading its records …");
    return this.box;
  }

  /** The run as it was after that record, which is not the last one, in the shape in which the API tells it. */
  cut(detail) {
    const { index, records } = this;
    const record = records[index];
    const ended = ENDED.has(record.status);
    const before = new Map();
    const known = new Set(records.map((one) => one.op));
    for (const one of records.slice(0, index + 1)) if (one.op_status) before.set(one.op, [...(before.get(one.op) ?? []), one]);
    const ops = (detail.ops ?? []).map((op) => opAt(op, before.get(op.op), known.has(op.op), record.at)).filter(Boolean);
    const then = (runs) => runs?.filter((one) => one.requested_at <= record.at);
    const run = { ...detail.run, status: statusAt(record.status, ops), ended_at: ended ? detail.run.ended_at : undefined };
    const cut = { ...detail, run, ops, progress: {}, children: then(detail.children), reruns: then(detail.reruns) };
    if (!ended) Object.assign(cut, { result: undefined, error: undefined });
    cut.waiting = ended ? [] : ops.filter((op) => op.status === "open").map((op) => ({ why: why(op), op: op.op }));
    return cut;
  }
}

/** `told`: records by which it became another, up to the moment; `known`: whether there are any, then or later. */
function opAt(op, told, known, at) {
  if (!told) {
    if (op.opened_at > at) return null;
    // A step has no record before its first attempt is over. What has none at all was so before the log was trimmed.
    return known ? (op.type === "step" ? openAt(op, [], true) : null) : op;
  }
  const last = told.at(-1);
  if (last.op_status !== "open") return { ...op, status: last.op_status };
  return openAt(op, told, op.type === "step" && !op.queue && last.kind !== "step.failed");
}

function openAt(op, told, running) {
  const made = told.filter((one) => one.kind === "step.failed" || one.kind === "run.recalled").length;
  const attempts = op.attempts?.slice(0, made);
  return { ...op, status: "open", ended_at: undefined, result: undefined, error: undefined, member: undefined, dispatches: undefined, attempts, running };
}

function why(op) {
  const about = op.about ? `: ${op.about}` : "";
  if (op.type === "sleep") return "it sleeps";
  if (op.type === "wait") return `it waits for an event${about}`;
  if (op.type === "call") return `it waits for the run that it called${about}`;
  if (op.type === "watch") return `it waits for another run${about}`;
  if (op.running) return `its step ${op.name} runs`;
  return op.queue ? `its step ${op.name} is in queue ${op.queue}` : `its step ${op.name} failed, and is tried again`;
}

/** As people know it: what runs no step and has opened something waits for it. */
function statusAt(status, ops) {
  const open = ops.filter((op) => op.status === "open");
  return status === "running" && open.length && !open.some((op) => op.running) ? "suspended" : status;
}

function which(record, index, records, status) {
  const since = record.at - records[0].at;
  return [
    h("b", null, `Record ${(index + 1).toLocaleString()} of ${records.length.toLocaleString()}`),
    bdi(record.words, "span"), chip(status),
    h("span.place", null, h("time", { title: moment(record.at) }, clock(record.at)), since ? ` · +${span(since)}` : "", ` · ${record.kind} · offset ${record.offset}`),
  ]; // prettier-ignore
}
