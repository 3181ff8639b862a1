// Functions: what starts them, how they are retried, when they fire next; and a way to try them.

import { Problem, ask, number, part } from "./api.js";
import { backfill } from "./bulk.js";
import { bdi, fill, h } from "./dom.js";
import { chip, percent, plural, span, when } from "./format.js";
import { callFunction, pause, resume, sendEvent } from "./steer.js";

const RATES_EVERY_MS = 15_000;
const KINDS = { event: "by event", background: "by name", cron: "by schedule", missing: "no code here" };

export function functions(view) {
  const list = h("div");
  fill(view.root, h("header.head", null, h("h1", null, "Functions")), list);
  let rates = new Map();
  let counted = 0;
  const look = view.watch(async (signal) => {
    if (Date.now() - counted > RATES_EVERY_MS) {
      counted = Date.now();
      rates = await ratesOf(signal);
    }
    const { data } = await ask("v1/functions", { signal });
    fill(list, data.length ? h("ul.cards", { "data-key": "cards", "data-loaded": true }, data.map((one) => card(one, rates.get(one.id), look))) : none());
  });
}

function none() {
  return h("div.empty", { "data-loaded": true }, h("h2", null, "No functions yet"), h("p", null, "Add one to your app; this page shows it after the reload:"), h("pre.block", { tabindex: 0 }, '@app.function(on="cart/product.added")\nasync def abandoned_cart(ctx: Context, event: Event) -> str: ...'));
}

/** How each did in the last day; nothing where there is no history to ask. */
async function ratesOf(signal) {
  try {
    const told = await ask("v1/overview", { query: [["since", "24h"]], signal });
    return new Map(told.functions.map((one) => [one.function, one]));
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 501) throw error;
    return new Map();
  }
}

function card(one, rate, look) {
  const triggers = one.triggers ?? [];
  const pills = (names) => names.map((name) => h("span.tag", null, bdi(name)));
  const fact = (name, ...value) => h("div", null, h("dt", null, name), h("dd", null, ...value));
  const label = (word) => `${word} ${one.id}`;
  return h("li.card", { "data-key": one.id },
    h("header", null,
      h("h2", null, h("a", { href: `#/runs?function=${part(one.id)}`, "data-row": true }, bdi(one.id))),
      one.paused_since ? chip("parked", "paused") : h("span.kind", null, KINDS[one.kind] ?? one.kind)),
    h("dl.facts", null,
      triggers.length ? fact("Starts on", ...pills(triggers)) : null,
      one.cron ? fact("Schedule", h("code", null, one.cron)) : null,
      one.next_fire ? fact("Next", when(one.next_fire)) : null,
      one.cancel_on?.length ? fact("Cancelled by", ...pills(one.cancel_on)) : null,
      one.kind === "missing" ? null : fact("Retries", String(one.retries ?? 4)),
      rate?.finished && rate.success_rate !== undefined && rate.success_rate !== null ? fact("Succeeded, 24 h", percent(rate.success_rate)) : null,
      rate?.p50_ms !== undefined && rate?.p50_ms !== null ? fact("p50 · p95", `${span(number(rate.p50_ms))} · ${span(number(rate.p95_ms))}`) : null,
      fact("Under way", one.running ? h("a", { href: `#/runs?function=${part(one.id)}` }, plural(one.running, "run")) : "none"),
      one.held ? fact("Held", plural(one.held, "run")) : null,
      one.paused_since ? fact("Paused", when(one.paused_since)) : null,
      one.paused_since ? fact("Waiting to start", plural(one.waiting ?? 0, "run")) : null),
    one.held ? h("p.hint", null, "Held runs wait for code that this process has not: start the version that they began with, or a newer one.") : null,
    h("p.actions", null,
      triggers.length ? h("button", { type: "button", "aria-label": label("Send an event for"), on: { click: () => sendEvent({ title: `Send an event for ${one.id}`, names: triggers, of: one.id }) } }, "Send a test event") : null,
      triggers.length && one.kind !== "missing" ? h("button", { type: "button", "aria-label": label("Backfill"), on: { click: () => backfill(one.id, look) } }, "Backfill") : null,
      one.kind === "background" ? h("button", { type: "button", "aria-label": label("Call"), on: { click: () => callFunction(one.id) } }, "Call it") : null,
      one.kind === "missing" ? null : one.paused_since
        ? h("button.primary", { type: "button", "aria-label": label("Resume"), on: { click: () => resume(one.id, look) } }, "Resume")
        : h("button", { type: "button", "aria-label": label("Pause"), on: { click: () => pause(one.id, look) } }, "Pause")),
  ); // prettier-ignore
}
