// The shell: which page is shown, the API key, the keyboard, and whether the engine answers.

import { Problem, ask, key } from "./api.js";
import { bdi, dialog, fill, h } from "./dom.js";
import { events, oneEvent } from "./events.js";
import { ago } from "./format.js";
import { functions } from "./functions.js";
import { heard, isLive, listen } from "./live.js";
import { overview } from "./overview.js";
import { run } from "./run.js";
import { runs } from "./runs.js";

const PAGES = [
  { path: /^$/, nav: "", title: "Overview", show: overview },
  { path: /^runs$/, nav: "runs", title: "Runs", show: runs },
  { path: /^runs\/(.+)$/, nav: "runs", title: "Run", show: run },
  { path: /^functions$/, nav: "functions", title: "Functions", show: functions },
  { path: /^events$/, nav: "events", title: "Events", show: events },
  { path: /^events\/(.+)$/, nav: "events", title: "Event", show: oneEvent },
];
const NAV = [["", "Overview"], ["runs", "Runs"], ["functions", "Functions"], ["events", "Events"]]; // prettier-ignore
const EVERY_MS = 1000;
const TOLD_EVERY_MS = 15_000;
const AGAIN_MS = 3000;

let leave = new AbortController();
let shown = "";

/** What a page has to do with: its place in the URL, its box, and its clock. It is over when another page is shown. */
class View {
  constructor(root, params, query, signal, appName) {
    Object.assign(this, { root, params, query, signal, appName });
    this.keys = {};
  }

  /** Changes filters in the URL. `push`: the way back leads to what was before. */
  set(changes, { push = false } = {}) {
    for (const [name, value] of Object.entries(changes)) value ? this.query.set(name, value) : this.query.delete(name);
    const [path] = location.hash.split("?");
    const query = this.query.toString();
    const hash = `${path || "#/"}${query ? `?${query}` : ""}`;
    if (hash === location.hash) return;
    shown = hash;
    push ? history.pushState(null, "", hash) : history.replaceState(null, "", hash);
  }

  /**
   * Looks now and each second while somebody sees the page. `look` answers false when there is nothing more to see.
   * `told`: it shows runs alone, and so need not look as long as the engine tells which of them change.
   */
  watch(look, { told = false } = {}) {
    let timer;
    let busy = false;
    let again = false;
    const turn = async () => {
      clearTimeout(timer);
      if (this.signal.aborted) return;
      if (busy) return void (again = true);
      busy = true;
      let wait = told && isLive() ? TOLD_EVERY_MS : EVERY_MS;
      try {
        if (!document.hidden && (await look(this.signal)) === false) wait = 0;
        if (!this.signal.aborted) reached();
      } catch (error) {
        if (this.signal.aborted) return;
        wait = missed(this, error) ? AGAIN_MS : 0;
      } finally {
        busy = false;
      }
      if (again) {
        again = false;
        turn();
      } else if (wait && !this.signal.aborted) timer = setTimeout(turn, wait);
    };
    document.addEventListener("visibilitychange", () => document.hidden || turn(), { signal: this.signal });
    if (told) heard(() => turn(), this.signal);
    turn();
    return turn;
  }

  title(text) {
    document.title = `${text} · ${this.appName || "Perdure"}`;
  }
}

let appName = "";

function route() {
  if (location.hash === shown && shown) return;
  shown = location.hash;
  leave.abort();
  leave = new AbortController();
  document.querySelectorAll("dialog").forEach((box) => box.close());
  const [path, query] = location.hash.replace(/^#?\/?/, "").split(/\?(.*)/s);
  const page = PAGES.find((one) => one.path.test(path));
  const root = h("div.page");
  notice = h("div.page");
  document.getElementById("main").replaceChildren(notice, root);
  if (!page) return void fill(root, h("h1", null, "No such page"), h("p.hint", null, h("a", { href: "#/runs" }, "See all runs")));
  const params = page.path.exec(path).slice(1).map(decode);
  const view = new View(root, params, new URLSearchParams(query ?? ""), leave.signal, appName);
  view.title(page.title);
  nav(page.nav);
  window.scrollTo(0, 0);
  current = view;
  page.show(view);
}

let current;
/** In the place of the page, while there is nothing to show of it. */
let notice;

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function nav(active) {
  const links = NAV.map(([path, title]) => h("a", { href: `#/${path}`, "aria-current": path === active ? "page" : null }, title));
  fill(document.getElementById("nav"), links);
}

function link(state, text) {
  const box = document.getElementById("link");
  if (box.dataset.state === state) return;
  box.dataset.state = state;
  fill(box, h("span.dot", { "aria-hidden": "true" }), text);
}

function reached() {
  link("live", "live");
  instead(null);
}

function instead(what) {
  fill(notice, what);
  current.root.hidden = Boolean(what);
}

/** Whether it is worth trying again by itself. */
function missed(view, error) {
  if (!(error instanceof Problem)) {
    instead([h("h1", null, "Something is wrong with this page"), h("p.hint", null, "Reload it. If that does not help, this is a bug of the dashboard:"), h("pre.block", null, String(error?.stack ?? error))]);
    return false;
  }
  if (error.status === 401) {
    link("off", "needs an API key");
    askForKey(error);
    return false;
  }
  const empty = !view.root.querySelector("[data-loaded]");
  if (error.status === 0 || error.status === 503) {
    link("off", "no answer: trying again");
    if (empty) instead(h("div.empty", null, h("h2", null, "The engine does not answer"), h("p", null, error.status ? error.message : "Is it running? Start it with ", error.status ? null : h("code", null, "perdure dev module:app"), error.status ? null : "; this page goes on by itself.")));
    return true;
  }
  link("live", "live");
  instead(refused(error));
  return false;
}

function refused(error) {
  const what = {
    403: ["This is not allowed", "Use a key with the scope that it names:", h("p", null, h("button", { type: "button", on: { click: () => askForKey(error) } }, "Use another key"))],
    404: ["There is no such thing", "It never was, or it ended longer ago than the engine remembers.", h("p", null, h("a", { href: "#/runs" }, "See all runs"))],
    501: ["This process keeps no runs", "Open the dashboard of one that does: perdure dev or serve, or a gateway with --history or --data.", null],
  }[error.status] ?? ["The engine refused this", "It says:", null];
  return h("div.empty", null, h("h2", null, what[0]), h("p", null, what[1]), h("p.said", null, bdi(error.message)), what[2]);
}

let asking = false;

function askForKey(error) {
  if (asking) return;
  asking = true;
  const box = dialog("This engine asks for an API key", (close) => {
    const field = h("input", { type: "password", autocomplete: "off", spellcheck: "false", required: true, "aria-label": "API key", placeholder: "API key" });
    const save = (event) => {
      event.preventDefault();
      key.set(field.value.trim());
      close();
      shown = "";
      begin();
    };
    return h("form", { on: { submit: save } },
      h("p", null, key.get() ? bdi(error.message) : "It is kept in this tab alone, until you close it."),
      h("p.hint", null, "Make one with ", h("code", null, "perdure keys new NAME --scope read --scope operate --scope send"), " and start the engine with its line."),
      field,
      h("p.actions", null, h("button.primary", null, "Go on")),
    ); // prettier-ignore
  });
  box.addEventListener("close", () => (asking = false));
}

async function begin() {
  route();
  listen();
  try {
    appName = (await ask("v1")).app;
    fill(document.getElementById("app"), bdi(appName));
    if (current) {
      current.appName = appName;
      document.title = `${document.title.split(" · ")[0]} · ${appName}`;
    }
  } catch {
    // The page itself says what is wrong.
  }
}

// Times grow old also where nothing changes.
setInterval(() => {
  for (const time of document.querySelectorAll("time[data-at]")) {
    const text = ago(Number(time.dataset.at));
    if (time.textContent !== text) time.textContent = text;
  }
}, 1000);

// Keys: j and k go through a list, Enter opens, / goes to the search field, Esc leads back.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest?.("input, textarea, select");
  if (typing) {
    if (event.key === "Escape") typing.blur();
    return;
  }
  if (event.key === "/") {
    const field = document.querySelector("[data-search]");
    if (field) {
      event.preventDefault();
      field.focus();
      field.select?.();
    }
  } else if (event.key === "j" || event.key === "k") {
    const rows = [...document.querySelectorAll("[data-row]")];
    const at = rows.indexOf(document.activeElement);
    const next = at < 0 ? rows.find((row) => row.ariaCurrent) ?? rows[0] : rows[at + (event.key === "j" ? 1 : -1)];
    next?.focus();
    if (at >= 0) next?.scrollIntoView({ block: "nearest" });
  } else if (event.key === "Escape") current?.keys.Escape?.();
});

window.addEventListener("hashchange", route);
window.addEventListener("popstate", route);
window.addEventListener("perdure:refused", (event) => askForKey(event.detail));
begin();
