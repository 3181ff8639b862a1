// Elements by hand. What users wrote becomes text and nothing else: there is no way from a string to markup here.

// Control characters, those that turn the direction of writing, invisible ones, and halves of surrogate pairs.
const STRANGE =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}\p{Cs}]/gu;

/** The text with what cannot be seen spelt out: an escape is ␛, a turn to the left is ‹U+202E›. */
export function inert(text) {
  return String(text).replace(STRANGE, (one) => {
    const code = one.codePointAt(0);
    if (code < 0x20) return String.fromCodePoint(0x2400 + code);
    return `‹U+${code.toString(16).toUpperCase().padStart(4, "0")}›`;
  });
}

/**
 * An element. `props`: attributes; `on` has listeners by event. Children: nodes, texts, lists of them; what is null or
 * false is left out. Links go to pages of ours alone.
 */
export function h(tag, props, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") for (const [event, listener] of Object.entries(value)) listen(element, event, listener);
    else if (key === "href" && !String(value).startsWith("#/")) throw new Error("links go to own pages alone");
    else element.setAttribute(key, value === true ? "" : inert(value));
  }
  element.append(...nodes(children));
  return element;
}

/** What a user wrote, within a text of ours: its direction of writing stays its own. */
export function bdi(text, tag = "bdi") {
  return h(tag, null, text);
}

function nodes(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false && child !== "")
    .map((child) => (child instanceof Node ? child : document.createTextNode(inert(child))));
}

/**
 * Gives `parent` these children by changing those that it has, so that the focus, a selection, a place in a scrolled box
 * and a click that has begun live through it. Children with `data-key` are told apart by it, others by their order.
 */
export function fill(parent, ...children) {
  arrange(parent, nodes(children));
}

function arrange(parent, wanted) {
  const keyed = new Map();
  for (const child of parent.children) if (child.dataset.key !== undefined) keyed.set(child.dataset.key, child);
  let at = parent.firstChild;
  for (const child of wanted) {
    const key = child.dataset?.key;
    const before = key !== undefined ? keyed.get(key) : at?.dataset?.key === undefined ? at : null;
    if (before && (before === child || alike(before, child))) {
      if (before === at) at = at.nextSibling;
      else parent.insertBefore(before, at);
      if (before !== child) become(before, child);
    } else parent.insertBefore(child, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function alike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName;
}

function become(old, wanted) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== wanted.data) old.data = wanted.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!wanted.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  for (const { name, value } of wanted.attributes) {
    if (name !== "open" && old.getAttribute(name) !== value) setAttribute(old, name, value, wanted);
  }
  for (const event of Object.keys(wanted.listeners ?? {})) listen(old, event, wanted.listeners[event]);
  arrange(old, [...wanted.childNodes]);
}

// The policy refuses a style that comes as a text, and takes one that is set by its parts.
function setAttribute(old, name, value, wanted) {
  if (name !== "style") return old.setAttribute(name, value);
  for (const property of wanted.style) old.style.setProperty(property, wanted.style.getPropertyValue(property));
}

// An element has one listener an event, so that a later drawing can put its own in the place of it.
function listen(element, event, listener) {
  element.listeners ??= {};
  if (!(event in element.listeners)) element.addEventListener(event, (happened) => element.listeners[event](happened));
  element.listeners[event] = listener;
}

/** A word about what has just been done, at the edge of the window. */
export function toast(text, kind = "") {
  const box = document.getElementById("toasts");
  const note = h("div.toast", { "data-kind": kind || null }, text);
  box.append(note);
  setTimeout(() => note.remove(), 6000);
}

/** Shows a dialog until it is closed, by Esc too. `build(close)` gives its content. */
export function dialog(title, build) {
  const close = () => box.close();
  const box = h("dialog", { "aria-label": title });
  box.append(h("h2", null, title), build(close));
  box.addEventListener("close", () => box.remove());
  box.addEventListener("click", (event) => event.target === box && close());
  document.body.append(box);
  box.showModal();
  return box;
}

/** Puts a text where it can be pasted from. */
export async function copy(text, what = "Copied") {
  try {
    await navigator.clipboard.writeText(text);
    toast(what);
  } catch {
    // Browsers give the clipboard to https and to this machine alone.
    dialog("Copy this", () => h("pre.block", { tabindex: 0 }, text));
  }
}
