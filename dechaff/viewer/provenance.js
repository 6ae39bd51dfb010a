// Where a node came from and what became of it, through all steps.

/** Origins of a node: those it records, else itself. */
function originsOf(id, node) {
  return new Set(node && node.origins && node.origins.length ? node.origins : [id]);
}

/** Per step, the nodes that share an origin; steps where nothing changed for them are left out. */
function lineageOf(id, node, steps) {
  const wanted = originsOf(id, node);
  const stages = [];
  let last = null;
  for (const step of steps) {
    if (step.undone) continue;
    const found = [];
    for (const [other, candidate] of step.graphAfter.nodes) {
      for (const origin of originsOf(other, candidate)) {
        if (!wanted.has(origin)) continue;
        found.push(other);
        break;
      }
    }
    const key = JSON.stringify(found);
    if (key !== last) stages.push({ step, ids: found });
    last = key;
  }
  return stages;
}

/** The step and the application of a rule that made a node, or null for an imported one. */
function makerOf(id, steps, upTo) {
  for (let index = upTo; index > 0; index -= 1) {
    const step = steps[index];
    if (!step.graphAfter.nodes.has(id) || step.graphBefore.nodes.has(id)) continue;
    const rewrite = (step.rewrites || []).find((item) => item.new_nodes.includes(id)) || null;
    return { step, rewrite };
  }
  return null;
}

/** The nodes that an application of a rule took away, and those it put in their place. */
function rewriteInstance(step, rewrite) {
  const wanted = new Set(rewrite.origins);
  const gone = [];
  for (const [id, node] of step.graphBefore.nodes) {
    if (step.graphAfter.nodes.has(id)) continue;
    if ([...originsOf(id, node)].some((origin) => wanted.has(origin))) gone.push(id);
  }
  return { gone, made: rewrite.new_nodes.filter((id) => step.graphAfter.nodes.has(id)) };
}

/** Lines of the torch module that a node's origins were written in. */
function sourceLines(id, node, steps) {
  const first = steps[0].graphAfter.nodes;
  const lines = new Set(node.source ? [node.source] : []);
  for (const origin of originsOf(id, node)) {
    const source = first.has(origin) && first.get(origin).source;
    if (source) lines.add(source);
  }
  return [...lines];
}
