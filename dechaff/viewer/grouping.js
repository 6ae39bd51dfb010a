// The tree of modules: operators as leaves, module paths as groups, loose operators gathered.

const FEWEST_IN_GROUP = 2;
const FEWEST_LOOSE = 6;
const LARGEST_FLAT = 120;
const CHUNK = 32;

/** Segments of a path; an index stays with its list: encoder, layer.3, attention. */
function pathSegments(path) {
  const segments = [];
  for (const part of path.split(".").filter(Boolean)) {
    if (/^\d+$/.test(part) && segments.length) segments[segments.length - 1] += `.${part}`;
    else segments.push(part);
  }
  return segments;
}

function newGroup(key, label, parent) {
  return { key, label, parent, groups: new Map(), leaves: [], isGroup: true };
}

/** The tree of a comparison. Leaves and groups get `parent`; groups get counts and children. */
function moduleTree(comparison) {
  const root = newGroup("", "", null);
  for (const leaf of comparison.leaves) {
    const segments = pathSegments(leaf.node.path || "");
    if (leaf.node.body) segments.push(leaf.node.body);
    let group = root;
    for (const segment of segments) {
      const parent = group;
      const key = parent.key ? `${parent.key}.${segment}` : segment;
      group = entry(parent.groups, segment, () => newGroup(key, segment, parent));
    }
    group.leaves.push(leaf);
  }
  simplify(root);
  comparison.leaves.forEach((leaf, index) => (leaf.index = index));
  gatherLoose(root, comparison);
  root.leaves.push(...interfaceLeaves(comparison));
  finishGroup(root, new Map());
  return root;
}

/** Dissolves groups of one operator, and joins a group that only holds another group with it. */
function simplify(group) {
  for (const [name, inner] of [...group.groups]) {
    simplify(inner);
    if (inner.leaves.length < FEWEST_IN_GROUP && inner.groups.size === 0) {
      group.leaves.push(...inner.leaves);
      group.groups.delete(name);
    } else if (inner.leaves.length === 0 && inner.groups.size === 1) {
      const [only] = inner.groups.values();
      only.label = `${inner.label}.${only.label}`;
      only.parent = group;
      group.groups.set(name, only);
    }
  }
}

/** Graph inputs and outputs as leaves of the outermost level. */
function interfaceLeaves({ before, after }) {
  const leaves = [];
  for (const kind of ["inputs", "outputs"]) {
    const types = new Map([...before[kind], ...after[kind]]);
    const [old, now] = [new Map(before[kind]), new Map(after[kind])];
    for (const [name, type] of types) {
      const status = !old.has(name) ? "added" : !now.has(name) ? "removed" : old.get(name) === now.get(name) ? "same" : "changed";
      const index = kind === "inputs" ? -1 : Infinity;
      leaves.push({ id: `${kind === "inputs" ? "input" : "output"}:${name}`, name, type, kind, status, index });
    }
  }
  return leaves;
}

/** Operators outside any module are gathered, and in every module those that compute sizes and masks. */
function gatherLoose(root, comparison) {
  if (root.groups.size === 0) {
    if (root.leaves.length > LARGEST_FLAT) chunkLeaves(root);
    return;
  }
  const producers = producersOf(comparison);
  const visit = (group) => {
    for (const inner of [...group.groups.values()]) visit(inner);
    const isLoose = group === root ? () => true : isBookkeeping;
    if (group.groups.size) gatherIn(group, group.leaves.filter(isLoose), comparison, producers);
  };
  visit(root);
}

/** Gathers loose operators by how many others lie before them in turn, so that no cycle arises. */
function gatherIn(group, loose, comparison, producers) {
  if (loose.length < FEWEST_LOOSE) return;
  const stages = looseStages(new Set(loose), comparison, producers);
  const byStage = new Map();
  for (const leaf of loose) entry(byStage, stages.get(leaf), () => []).push(leaf);
  const gathered = new Set();
  for (const [stage, leaves] of byStage) {
    if (leaves.length < FEWEST_LOOSE) continue;
    const label = leaves.every(isBookkeeping) ? "sizes and masks" : "outside modules";
    const made = newGroup(`${group.key}(${label} ${stage})`, label, group);
    made.leaves = leaves;
    made.isArtificial = true;
    group.groups.set(made.key, made);
    for (const leaf of leaves) gathered.add(leaf);
  }
  group.leaves = group.leaves.filter((leaf) => !gathered.has(leaf));
}

function isBookkeeping(leaf) {
  return (leaf.node.outputs || []).every(([, type]) => isIndexType(type));
}

function producersOf(comparison) {
  const producers = new Map();
  for (const leaf of comparison.leaves) {
    for (const side of [leaf.before, leaf.after]) {
      for (const [name] of (side && side.outputs) || []) producers.set(name, leaf);
    }
  }
  return producers;
}

function looseStages(loose, comparison, producers) {
  const stages = new Map();
  for (const leaf of comparison.leaves) {
    let stage = 0;
    for (const side of [leaf.before, leaf.after]) {
      for (const name of (side && side.inputs) || []) {
        const source = producers.get(name);
        if (!source || !stages.has(source)) continue;
        const step = loose.has(leaf) && !loose.has(source) ? 1 : 0;
        stage = Math.max(stage, stages.get(source) + step);
      }
    }
    stages.set(leaf, stage);
  }
  return stages;
}

/** A long list without modules becomes groups of neighbours, as often as it takes. */
function chunkLeaves(root) {
  let items = root.leaves.map((leaf) => ({ leaf, first: leaf.index, last: leaf.index }));
  root.leaves = [];
  while (items.length > CHUNK) {
    const groups = [];
    for (let start = 0; start < items.length; start += CHUNK) {
      const part = items.slice(start, start + CHUNK);
      const [first, last] = [part[0].first, part[part.length - 1].last];
      const group = newGroup(`ops ${first}–${last}`, `ops ${first}–${last}`, root);
      for (const item of part) attach(group, item);
      group.isArtificial = true;
      groups.push({ group, first, last });
    }
    items = groups;
  }
  for (const item of items) attach(root, item);
}

function attach(parent, { leaf, group }) {
  if (leaf) {
    parent.leaves.push(leaf);
    return;
  }
  group.parent = parent;
  parent.groups.set(group.key, group);
}

/** Sets parents, order, and counts of statuses per group. */
function finishGroup(group, groupsByKey) {
  group.counts = { added: 0, removed: 0, changed: 0, rewired: 0, same: 0 };
  group.size = 0;
  group.index = Infinity;
  for (const leaf of group.leaves) {
    leaf.parent = group;
    if (leaf.kind) continue;
    group.counts[leaf.status] += 1;
    group.size += 1;
    group.index = Math.min(group.index, leaf.index);
  }
  for (const inner of group.groups.values()) {
    finishGroup(inner, groupsByKey);
    for (const status of Object.keys(group.counts)) group.counts[status] += inner.counts[status];
    group.size += inner.size;
    group.index = Math.min(group.index, inner.index);
    groupsByKey.set(inner.key, inner);
  }
  group.groupsByKey = groupsByKey;
  group.children = [...group.leaves, ...group.groups.values()].sort((a, b) => a.index - b.index);
  group.altered = group.counts.added + group.counts.removed + group.counts.changed;
}

/** Edges between leaves of a comparison: source, target, value, and on which sides they exist. */
function leafEdges(comparison, root) {
  const interfaces = new Map(root.children.filter((leaf) => leaf.kind).map((leaf) => [leaf.id, leaf]));
  const edges = new Map();
  for (const [side, bit] of [["before", 1], ["after", 2]]) {
    const graph = comparison[side];
    const producers = new Map(graph.inputs.map(([name, type]) => [name, [interfaces.get(`input:${name}`), type]]));
    for (const leaf of comparison.leaves) {
      for (const [name, type] of (leaf[side] && leaf[side].outputs) || []) if (name) producers.set(name, [leaf, type]);
    }
    const connect = (name, target) => {
      const made = producers.get(name);
      if (!made || made[0] === target) return;
      const key = `${made[0].id}\u0000${name}\u0000${target.id}`;
      const edge = entry(edges, key, () => ({ source: made[0], target, value: name, type: made[1], sides: 0 }));
      edge.sides |= bit;
    };
    for (const leaf of comparison.leaves) for (const name of (leaf[side] && leaf[side].inputs) || []) connect(name, leaf);
    for (const [name] of graph.outputs) connect(name, interfaces.get(`output:${name}`));
  }
  return [...edges.values()];
}
