// The trace: unpacked, and its graphs rebuilt from the differences.

/** Reads the trace that is embedded in the page. */
async function readTrace() {
  const packed = Uint8Array.from(atob(byId("trace").textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** A graph with its nodes in a Map: names such as "__proto__" are names like any other. */
function graphFrom(data) {
  return {
    inputs: data.inputs,
    outputs: data.outputs,
    order: data.order,
    nodes: new Map(Object.entries(data.nodes)),
    weights: new Map(Object.entries(data.weights)),
  };
}

function applyDifference(graph, difference) {
  const order = [...graph.order];
  for (const [start, stop, names] of difference.order || []) order.splice(start, stop - start, ...names);
  const nodes = new Map(graph.nodes);
  for (const name of difference.removed || []) nodes.delete(name);
  for (const [name, node] of Object.entries(difference.nodes || {})) nodes.set(name, node);
  const weights = new Map(graph.weights);
  for (const name of difference.removed_weights || []) weights.delete(name);
  for (const [name, weight] of Object.entries(difference.weights || {})) weights.set(name, weight);
  return {
    inputs: difference.inputs || graph.inputs,
    outputs: difference.outputs || graph.outputs,
    order,
    nodes,
    weights,
  };
}

/** Steps with the graphs before and after; step 0 is the model as it came in. */
function stepsOf(trace) {
  let graph = graphFrom(trace.initial);
  const first = { name: trace.kind === "optimization" ? "imported model" : trace.source, kind: "import", changed: false };
  const steps = [{ ...first, index: 0, graphBefore: graph, graphAfter: graph, graphNext: graph }];
  for (const step of trace.steps) {
    const after = step.difference ? applyDifference(graph, step.difference) : graph;
    const next = step.undone ? graph : after;
    steps.push({ ...step, index: steps.length, graphBefore: graph, graphAfter: after, graphNext: next });
    graph = next;
  }
  return steps;
}

function operatorName(node) {
  return node.domain ? `${node.domain}.${node.op}` : node.op;
}

/** One operation on a line, as dechaff's text form writes it. */
function nodeText(node) {
  const results = (node.outputs || []).map(([name, type]) => `${type} ${name || "_"}`).join(", ");
  const attributes = Object.entries(node.attributes || {}).map(([name, text]) => `${name} = ${text}`).join(", ");
  const operands = (node.inputs || []).map((name) => name || '""').join(", ");
  return `${results} = ${operatorName(node)}${attributes ? ` <${attributes}>` : ""} (${operands})`;
}

/** Sums a graph's own figures at sizes. */
function graphFigures(graph, sizes) {
  let flops = 0;
  let bytes = 0;
  for (const node of graph.nodes.values()) {
    if (node.body) continue;
    flops += evaluateFormula(node.flops, sizes);
    bytes += evaluateFormula(node.bytes, sizes);
  }
  let parameters = 0;
  for (const weight of graph.weights.values()) parameters += weight.parameters;
  return { ops: graph.nodes.size, flops, bytes, parameters };
}

/** Every symbol that a formula of the trace holds. */
function symbolsOf(steps) {
  const names = new Set();
  const texts = new Set();
  for (const step of steps) {
    for (const node of step.graphAfter.nodes.values()) {
      if (node.flops) texts.add(node.flops);
      if (node.bytes) texts.add(node.bytes);
    }
  }
  for (const text of texts) for (const name of formula(text).symbols) names.add(name);
  return [...names];
}
