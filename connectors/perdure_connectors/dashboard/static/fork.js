// Again from a step on: a new run with the history of this one up to there, and something changed.

import { ask, part, pretty } from "./api.js";
import { bdi, dialog, h, toast } from "./dom.js";
import { attempt, jsonField, see } from "./steer.js";

const ANEW = ["", "is done anew"];
const RESULT = ["result", "brings this result"];
const ERROR = ["error", "fails with this error"];
/** What may be another there, by the type of op: of all others nothing. */
const CHANGES = {
  step: [ANEW, RESULT, ERROR],
  call: [ANEW, RESULT, ERROR],
  watch: [ANEW, RESULT, ERROR],
  wait: [ANEW, ["taken", "takes an event with these data"], ["timeout", "times out"]],
  sleep: [ANEW, ["timeout", "is over at once"]],
};

export const forkable = (op) => op.type in CHANGES && op.status !== "closed";

export function forkFrom(detail, op) {
  dialog(`Re-run from ${op.name}`, (close) => {
    const what = h("select", { "aria-label": "It" }, CHANGES[op.type].map(([value, words]) => h("option", { value }, words)));
    const fields = {
      result: jsonField("Result", pretty(op.result ?? null), { any: true }),
      taken: jsonField("Data of the event", pretty(op.result?.data ?? {})),
    };
    const error = h("input", { "aria-label": "Error", placeholder: "shop.CardDeclined: no money", maxlength: 1000 });
    const nodes = { result: fields.result.node, taken: fields.taken.node, error: h("label.field", null, h("span", null, "Error"), error) };
    const begins = detail.event && !Array.isArray(detail.event) ? jsonField("Data of the event that it begins with", pretty(detail.event.data ?? {})) : null;
    const other = begins ? h("details", null, h("summary", null, "Begin with another event"), begins.node) : null;
    const recorded = h("input", { type: "checkbox" });
    const show = () => Object.entries(nodes).forEach(([name, node]) => (node.hidden = name !== what.value));
    what.addEventListener("change", show);
    show();
    const submit = async (event) => {
      event.preventDefault();
      const members = [`"at":${JSON.stringify(op.op)}`, `"recorded":${recorded.checked}`];
      const add = (name, field) => {
        const read = field.read();
        if (read !== null) members.push(`"${name}":${read}`);
        return read !== null;
      };
      if (what.value in fields && !add(what.value, fields[what.value])) return;
      if (what.value === "error") members.push(`"error":${JSON.stringify(error.value || "failed by hand")}`);
      if (what.value === "timeout") members.push('"timeout":true');
      if (other?.open && !add("event", begins)) return;
      const made = await attempt(() => ask(`v1/runs/${part(detail.run.id)}/fork`, { method: "POST", body: `{${members.join(",")}}` }));
      if (!made) return;
      close();
      toast("Runs again from there, as a new run");
      see(made.run_id);
    };
    return h("form", { on: { submit } },
      h("p.hint", null, "A new run of ", bdi(detail.run.function, "b"), ". What this one did before ", bdi(op.name, "b"), " is recalled and not done again; what comes after it is done."),
      h("label.field", null, h("span", null, "In the new run ", bdi(op.name)), what),
      nodes.result, nodes.taken, nodes.error,
      other,
      h("label.check", null, recorded, " What follows is as it was, as long as the code asks for the same"),
      h("p.actions", null, h("button", { type: "button", on: { click: close } }, "Close"), h("button.primary", null, "Run")),
    ); // prettier-ignore
  });
}
