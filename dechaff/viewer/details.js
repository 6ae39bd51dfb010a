// The panel on the right: a pass, a module, or a node.

const MOST_LISTED = 60;

function section(title, ...content) {
  const filled = content.flat(Infinity).filter(Boolean);
  return filled.length ? element("section", null, element("h3", null, title), filled) : null;
}

/** Rows of name and content; a row without content is left out. */
function table(rows) {
  const filled = rows.filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  return filled.length
    ? element("dl", null, filled.map(([name, value]) => [element("dt", null, shown(name, 80)), element("dd", null, typeof value === "string" ? shown(value, 2000) : value)]))
    : null;
}

function listed(items, draw) {
  const rows = items.slice(0, MOST_LISTED).map((item) => element("li", null, draw(item)));
  const more = items.length - MOST_LISTED;
  if (more > 0) rows.push(element("li", { class: "more" }, `and ${more} more`));
  return element("ul", { class: "plain" }, rows);
}

/** A formula and its value at the chosen sizes. */
function figure(text, sizes, unit) {
  if (!text) return null;
  const value = quantity(evaluateFormula(text, sizes), unit);
  return [element("b", null, value), /[^\d.]/.test(text) ? element("code", { class: "formula" }, shown(text, 600)) : null];
}

/** A link to a node: in a certain step, or in the one that is shown, if it has it. */
function nodeLink(id, viewer, text = id, step = null) {
  const follow = () => (step ? viewer.go(step.index, id) : viewer.select(id));
  return element("button", { type: "button", class: "link", "data-node": id, onclick: follow }, shown(text, 80));
}

function stepLink(step, viewer, id = null) {
  const go = () => viewer.go(step.index, id);
  return element("button", { type: "button", class: "link step-link", onclick: go }, `${step.index}. ${shown(step.name, 60)}`);
}

/** A sentence of a docstring, in which code stands between doubled backticks. */
function prose(text) {
  return shown(text, 600).split("``").map((part, index) => (index % 2 ? element("code", null, part) : part));
}

function passDetails(viewer, step, comparison) {
  return [
    element("h2", null, shown(step.name, 120)),
    step.summary && element("p", { class: "summary" }, prose(step.summary)),
    step.undone && element("p", { class: "alarm" }, `Undone: ${shown(step.undone, 1000)}`),
    table([
      ["numerics", step.numerics],
      ["time", seconds(step.seconds)],
    ]),
    figuresSection(viewer, step),
    section("Rewrites", rewriteList(viewer, step)),
    section("Why it did not fire", missList(step)),
    section("Notes", (step.notes || []).map((note) => element("p", null, shown(note, 1000)))),
    section("Error against the graph before", errorTable(step.errors || [])),
    section("Operators", operatorTable(comparison)),
    step.index === 0 || step.index === viewer.steps.length - 1 ? runDetails(viewer.trace) : null,
  ];
}

function figuresSection(viewer, step) {
  const [before, after] = [step.graphBefore, step.graphAfter].map((graph) => graphFigures(graph, viewer.sizes));
  const rows = [
    ["operators", "ops", ""],
    ["FLOPs", "flops", ""],
    ["bytes moved", "bytes", "B"],
    ["parameters", "parameters", ""],
  ].map(([title, key, unit]) =>
    element(
      "tr",
      null,
      element("th", { scope: "row" }, title),
      element("td", null, quantity(before[key], unit)),
      element("td", null, step.changed || step.undone ? quantity(after[key], unit) : ""),
      element("td", { class: "change" }, relativeChange(before[key], after[key]))
    )
  );
  const heads = step.changed || step.undone ? ["", "before", "after", ""] : ["", "", "", ""];
  return element("table", { class: "figures" }, element("thead", null, element("tr", null, heads.map((text) => element("th", { scope: "col" }, text)))), element("tbody", null, rows));
}

function rewriteList(viewer, step) {
  const rewrites = step.rewrites || [];
  const byRule = new Map();
  for (const rewrite of rewrites) entry(byRule, rewrite.rule, () => []).push(rewrite);
  return [...byRule].map(([rule, uses], index) =>
    element(
      "details",
      { open: index === 0 && uses.length <= 12 },
      element("summary", null, element("b", null, shown(rule, 80)), ` × ${uses.length}`),
      listed(uses, (rewrite) => rewriteRow(viewer, step, rewrite))
    )
  );
}

function rewriteRow(viewer, step, rewrite) {
  const { gone, made } = rewriteInstance(step, rewrite);
  const first = made[0] || gone[0];
  const where = first && (step.graphAfter.nodes.get(first) || step.graphBefore.nodes.get(first));
  const names = (ids, graph) => ids.slice(0, 6).map((id) => graph.nodes.get(id).op).join(", ") + (ids.length > 6 ? ", …" : "");
  const text = `${names(gone, step.graphBefore) || "–"} → ${names(made, step.graphAfter) || "–"}`;
  return [
    first ? nodeLink(first, viewer, text) : shown(text),
    element("small", null, shown((where && where.path) || rewrite.origins.slice(0, 3).join(", "), 100)),
  ];
}

function missList(step) {
  const misses = step.near_misses || [];
  return misses.length
    ? listed(misses, (miss) => [
        element("b", null, shown(miss.rule, 80)),
        element("p", null, shown(miss.reason, 600)),
        element("code", null, shown(miss.node, 300)),
      ])
    : null;
}

function errorTable(errors) {
  const number = (value) => (value === null ? "∞" : value.toExponential(2));
  return errors.map((item) =>
    table([
      ["output", item.output],
      ["max. error", `${number(item.max_abs_error)} of ${number(item.limit)} allowed`],
      ["worst case", item.case],
      ["problem", item.problem],
    ])
  );
}

function operatorTable({ before, after }) {
  const counts = new Map();
  for (const [graph, side] of [[before, 0], [after, 1]]) {
    for (const node of graph.nodes.values()) entry(counts, operatorName(node), () => [0, 0])[side] += 1;
  }
  const rows = [...counts].sort(([, a], [, b]) => Math.abs(b[1] - b[0]) - Math.abs(a[1] - a[0]) || b[1] - a[1]);
  return element(
    "table",
    { class: "operators" },
    rows.map(([name, [old, now]]) =>
      element("tr", { class: old === now ? null : "differs" }, element("th", { scope: "row" }, shown(name, 60)), element("td", null, String(old)), element("td", null, old === now ? "" : `→ ${now}`))
    )
  );
}

function runDetails(trace) {
  const proof = trace.verification;
  return [
    trace.error && element("p", { class: "alarm" }, `The run failed: ${shown(trace.error, 1000)}`),
    section("Warnings", (trace.warnings || []).map((text) => element("p", { class: "alarm" }, shown(text, 1000)))),
    section("Notes of the run", (trace.notes || []).map((text) => element("p", null, shown(text, 1000)))),
    proof && section(proof.verified ? `Verified on ${proof.cases.length} cases` : "Not verified", proof.reason && element("p", null, shown(proof.reason, 600)), errorTable(proof.outputs)),
    section("Options", table(Object.entries(trace.options).map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : value]))),
    section("Versions", table(Object.entries(trace.versions))),
  ];
}
