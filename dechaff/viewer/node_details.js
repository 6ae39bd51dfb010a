// The panel on the right for a module, a graph input or output, and a node.

function groupDetails(viewer, step, group) {
  const totals = { flops: 0, bytes: 0 };
  const visit = (inner) => {
    for (const leaf of inner.leaves) {
      const node = !leaf.kind && step.graphAfter.nodes.get(leaf.id);
      if (!node) continue;
      totals.flops += evaluateFormula(node.flops, viewer.sizes);
      totals.bytes += evaluateFormula(node.bytes, viewer.sizes);
    }
    for (const child of inner.groups.values()) visit(child);
  };
  visit(group);
  return [
    element("h2", null, shown(group.label, 120)),
    table([
      ["module", group.isArtificial ? "" : group.key],
      ["operators", String(group.size)],
      ["changes", groupMarks(group)],
      ["FLOPs", quantity(totals.flops)],
      ["bytes moved", quantity(totals.bytes, "B")],
    ]),
  ];
}

function interfaceDetails(leaf) {
  return [element("h2", null, shown(leaf.name, 200)), table([["graph", leaf.kind === "inputs" ? "input" : "output"], ["type", leaf.type]])];
}

function nodeDetails(viewer, step, leaf) {
  const { before, after } = leaf;
  const node = after || before;
  const graph = after ? step.graphAfter : step.graphBefore;
  return [
    element("h2", null, shown(operatorName(node), 120), leaf.status !== "same" && element("span", { class: `badge ${leaf.status}` }, `${MARKS[leaf.status]} ${leaf.status}`)),
    table([
      ["name", leaf.id],
      ["module", node.path],
      ["inside", node.body],
      ["runs as", runsAs(viewer.steps, leaf.id, node)],
      ["FLOPs", figure(node.flops, viewer.sizes)],
      ["bytes moved", figure(node.bytes, viewer.sizes, "B")],
      ...errorRows(step, leaf.id),
    ]),
    leaf.status === "changed" || leaf.status === "rewired" ? section("What changed", changeLines(before, after)) : null,
    section("Results", operandList(viewer, graph, (node.outputs || []).map(([name]) => name), node)),
    section("Operands", operandList(viewer, graph, node.inputs || [], null)),
    section("Attributes", table(Object.entries(node.attributes || {}))),
    provenanceSection(viewer, step, leaf.id, node),
  ];
}

function changeLines(before, after) {
  return [element("pre", { class: "removed" }, `− ${shown(nodeText(before), 1500)}`), element("pre", { class: "added" }, `+ ${shown(nodeText(after), 1500)}`)];
}

function operandList(viewer, graph, names, maker) {
  if (!names.length) return null;
  return listed(names, (name) => {
    if (!name) return element("span", { class: "more" }, "left out");
    const weight = graph.weights.get(name);
    const use = viewer.valuesOf(graph).get(name) || { type: "", producer: null, consumers: [] };
    const others = maker ? use.consumers : [use.producer].filter(Boolean);
    return [
      element("code", null, shown(name, 120)),
      element("small", null, shown(weight ? weight.type : use.type, 200)),
      others.length ? element("div", { class: "links" }, maker ? "to " : "from ", others.slice(0, 12).map((id) => nodeLink(id, viewer))) : null,
      weight && element("small", { class: "statistics" }, weightText(weight)),
    ];
  });
}

function weightText(weight) {
  if (weight.values) return shown(weight.values, 200);
  if (weight.digest === undefined) return "computed when the model is saved";
  const parts = ["min", "max", "mean", "std"].filter((key) => weight[key] !== undefined).map((key) => `${key} ${Number(weight[key].toPrecision(3))}`);
  if (weight.zeros) parts.push(`${(100 * weight.zeros).toPrecision(2)} % zeros`);
  if (weight.sampled) parts.push(`of ${quantity(weight.sampled)} sampled`);
  return `${parts.join(" · ")} · digest ${shown(weight.digest, 16)}`;
}

function provenanceSection(viewer, step, id, node) {
  const { steps } = viewer;
  const maker = makerOf(id, steps, step.index);
  const instance = maker && maker.rewrite && rewriteInstance(maker.step, maker.rewrite);
  const lines = sourceLines(id, node, steps);
  const links = (ids, at) => element("div", { class: "links" }, ids.slice(0, 24).map((other) => nodeLink(other, viewer, other, at)), ids.length > 24 ? ` and ${ids.length - 24} more` : null);
  return section(
    "Provenance",
    table([
      ["made by", maker ? stepLink(maker.step, viewer, id) : steps[0].graphAfter.nodes.has(id) ? "imported with the model" : ""],
      ["rule", node.rule],
      ["took the place of", instance && instance.gone.length > 0 && links(instance.gone, maker.step)],
      ["together with", instance && instance.made.length > 1 && links(instance.made.filter((other) => other !== id))],
      ["stands for", links([...originsOf(id, node)], steps[0])],
      ["source", lines.join("\n")],
    ]),
    instance && ruleText(maker.step, instance),
    element(
      "ol",
      { class: "lineage" },
      lineageOf(id, node, steps).map((stage) =>
        element("li", { class: stage.step.index === step.index ? "now" : null }, stepLink(stage.step, viewer, stage.ids[0] || null), stage.ids.length ? links(stage.ids, stage.step) : element("span", { class: "more" }, " gone"))
      )
    )
  );
}

const MOST_RULE_LINES = 14;
const MOST_KERNELS = 8;

/** What an application of a rule did, in text: the operators it took away and those it made. */
function ruleText(step, { gone, made }) {
  const block = (ids, graph, kind, sign) => {
    const lines = ids.slice(0, MOST_RULE_LINES).map((id) => `${sign} ${shown(nodeText(graph.nodes.get(id)), 300)}`);
    if (ids.length > MOST_RULE_LINES) lines.push(`${sign} … and ${ids.length - MOST_RULE_LINES} more`);
    return lines.length ? element("pre", { class: kind }, lines.join("\n")) : null;
  };
  return element("details", { class: "rule", open: gone.length + made.length <= 6 }, element("summary", null, "before and after of the rule"), block(gone, step.graphBefore, "removed", "−"), block(made, step.graphAfter, "added", "+"));
}

/** The operators that the runtime gets for a node, where the trace holds the lowered graph. */
function runsAs(steps, id, node) {
  const last = steps[steps.length - 1];
  if (last.kind !== "lowering") return "";
  const wanted = originsOf(id, node);
  const counts = new Map();
  for (const [other, lowered] of last.graphAfter.nodes) {
    const isPart = other === id || ![...originsOf(other, lowered)].every((origin) => !wanted.has(origin));
    if (isPart) counts.set(operatorName(lowered), (counts.get(operatorName(lowered)) || 0) + 1);
  }
  const texts = [...counts].map(([name, count]) => (count > 1 ? `${name} × ${count}` : name));
  return texts.length > MOST_KERNELS ? `${texts.slice(0, MOST_KERNELS).join(", ")}, …` : texts.join(", ");
}
