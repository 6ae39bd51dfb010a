// The module that an operator is shown in: its own, or for what no input changes (a constant, a copy
// of a weight, a size computed of these) the one where all of its results are used.

/** Path segments by leaf of a comparison. */
function homesOf(comparison, producers) {
  const still = stillLeaves(comparison, producers);
  const consumers = new Map();
  for (const leaf of comparison.leaves) {
    for (const source of sourcesOf(leaf, producers)) entry(consumers, source, () => []).push(leaf);
  }
  const homes = new Map();
  for (const leaf of [...comparison.leaves].reverse()) {
    const own = pathSegments(leaf.node.path || "");
    if (leaf.node.body) own.push(leaf.node.body);
    const users = still.has(leaf) ? (consumers.get(leaf) || []).map((user) => homes.get(user)) : [];
    const shared = users.length && users.every(Boolean) ? users.reduce(commonStart) : own;
    const isDeeper = shared.length > own.length && own.every((segment, index) => segment === shared[index]);
    homes.set(leaf, isDeeper ? shared : own);
  }
  return homes;
}

/** Leaves that read nothing but weights and other such leaves. */
function stillLeaves(comparison, producers) {
  const still = new Set();
  for (const leaf of comparison.leaves) {
    const isStill = ["before", "after"].every((side) => {
      const names = (leaf[side] && leaf[side].inputs) || [];
      return names.every((name) => !name || comparison[side].weights.has(name) || still.has(producers.get(name)));
    });
    if (isStill) still.add(leaf);
  }
  return still;
}

function sourcesOf(leaf, producers) {
  const names = [leaf.before, leaf.after].flatMap((side) => (side && side.inputs) || []);
  return new Set(names.map((name) => producers.get(name)).filter(Boolean));
}

function commonStart(left, right) {
  const end = left.findIndex((segment, index) => segment !== right[index]);
  return end < 0 ? left : left.slice(0, end);
}
