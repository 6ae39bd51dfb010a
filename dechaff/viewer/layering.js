// Layers of one level of the graph: ranks by longest path, dummies on long edges, few crossings.
// A vertex is {item, width, height, rank, order}; a wire leads from one vertex to several.

const SWEEPS = 10;
const MOST_DUMMIES = 20000;

/** Gives every vertex a rank such that wires lead down, but for those that close a cycle. */
function rankVertices(vertices, wires) {
  const next = new Map(vertices.map((vertex) => [vertex, []]));
  const links = wires.flatMap((wire) => wire.targets.map((target) => ({ source: wire.source, target })));
  for (const link of links) next.get(link.source).push(link);
  breakCycles(vertices, next);
  const waiting = new Map(vertices.map((vertex) => [vertex, 0]));
  for (const link of links) if (!link.back) waiting.set(link.target, waiting.get(link.target) + 1);
  const ready = vertices.filter((vertex) => waiting.get(vertex) === 0);
  const sources = new Set(ready);
  const hasEntries = vertices.some((vertex) => vertex.isEntry);
  for (const vertex of vertices) vertex.rank = vertex.isEntry || !hasEntries ? 0 : 1;
  const sorted = [];
  for (let vertex = ready.shift(); vertex; vertex = ready.shift()) {
    sorted.push(vertex);
    for (const link of next.get(vertex)) {
      if (link.back) continue;
      link.target.rank = Math.max(link.target.rank, vertex.rank + 1);
      waiting.set(link.target, waiting.get(link.target) - 1);
      if (waiting.get(link.target) === 0) ready.push(link.target);
    }
  }
  for (const vertex of sorted.reverse()) {
    if (!sources.has(vertex) || vertex.isEntry || vertex.isPinned) continue;
    const below = next.get(vertex).filter((link) => !link.back).map((link) => link.target.rank);
    if (below.length) vertex.rank = Math.max(vertex.rank, Math.min(...below) - 1);
  }
  const deepest = vertices.reduce((most, vertex) => (vertex.isExit ? most : Math.max(most, vertex.rank)), 0);
  for (const vertex of vertices) if (vertex.isExit) vertex.rank = deepest + 1;
}

/** Marks links that lead back into the path being walked. */
function breakCycles(vertices, next) {
  const state = new Map();
  for (const start of vertices) {
    if (state.has(start)) continue;
    const path = [[start, 0]];
    state.set(start, 1);
    while (path.length) {
      const top = path[path.length - 1];
      const link = next.get(top[0])[top[1]];
      if (!link) {
        state.set(top[0], 2);
        path.pop();
        continue;
      }
      top[1] += 1;
      if (state.get(link.target) === 1) link.back = true;
      else if (!state.has(link.target)) {
        state.set(link.target, 1);
        path.push([link.target, 0]);
      }
    }
  }
}

/** Layers with dummies; each wire gets `segments` between vertices of neighbouring layers. */
function buildLayers(vertices, wires) {
  const layers = [];
  const put = (vertex) => {
    while (layers.length <= vertex.rank) layers.push([]);
    layers[vertex.rank].push(vertex);
  };
  for (const vertex of vertices) put(vertex);
  let dummies = 0;
  for (const wire of wires) dummies += routeWire(wire, put, MOST_DUMMIES - dummies);
  return layers;
}

/** Leads a wire through the layers by dummies, at most so many; gives how many it took. */
function routeWire(wire, put, most) {
  const isDown = ({ vertex }) => vertex.rank > wire.source.rank;
  const down = wire.reached.filter(isDown);
  wire.segments = [];
  wire.loose = wire.reached.filter((target) => !isDown(target));
  const last = down.reduce((deepest, { vertex }) => Math.max(deepest, vertex.rank), 0);
  let from = wire.source;
  let used = 0;
  for (let rank = from.rank + 1; rank <= last; rank += 1) {
    for (const { vertex, sides } of down) if (vertex.rank === rank) wire.segments.push({ from, to: vertex, sides });
    const further = down.filter(({ vertex }) => vertex.rank > rank);
    if (!further.length) break;
    if (used >= most) {
      wire.loose.push(...further);
      break;
    }
    const dummy = { isDummy: true, width: 2, height: 0, rank };
    put(dummy);
    used += 1;
    wire.segments.push({ from, to: dummy, sides: further.reduce((all, { sides }) => all | sides, 0) });
    from = dummy;
  }
  return used;
}

/** How much a segment wants to be straight: long wires most, then data; sizes and masks give way. */
function pullOf(from, to, wire) {
  const length = from.isDummy && to.isDummy ? 6 : from.isDummy || to.isDummy ? 2 : 3;
  return isIndexType(wire.type) ? length / 6 : length;
}

/** Whether values of a type are sizes, positions or masks rather than data. */
function isIndexType(type) {
  return /^(u?int|bool)/.test(type || "");
}

function neighbours(layers, wires) {
  for (const layer of layers) for (const vertex of layer) [vertex.above, vertex.below] = [[], []];
  for (const wire of wires) {
    for (const { from, to } of wire.segments) {
      const [out, into, pull] = [exitOffset(from, wire), entryOffset(to, wire), pullOf(from, to, wire)];
      from.below.push({ vertex: to, own: out, other: into, pull });
      to.above.push({ vertex: from, own: into, other: out, pull });
    }
  }
}

/** Where a wire leaves or enters a vertex, from its left edge. */
function exitOffset(vertex, wire) {
  return (vertex.exits && vertex.exits.get(wire.key)) ?? vertex.width / 2;
}

function entryOffset(vertex, wire) {
  return (vertex.entries && vertex.entries.get(wire.key)) ?? vertex.width / 2;
}

/** Orders each layer by the mean place of its neighbours, down and up in turn. */
function orderLayers(layers) {
  const number = (layer) => layer.forEach((vertex, index) => (vertex.order = index));
  layers.forEach(number);
  let best = layers.map((layer) => [...layer]);
  let fewest = crossings(layers);
  for (let sweep = 0; sweep < SWEEPS && fewest > 0; sweep += 1) {
    const down = sweep % 2 === 0;
    const sequence = down ? layers : [...layers].reverse();
    for (const layer of sequence) {
      for (const vertex of layer) {
        const near = down ? vertex.above : vertex.below;
        const places = near.map(({ vertex: other, other: offset }) => other.order + offset / (other.width + 1) - 0.5);
        vertex.weight = places.length ? places.reduce((a, b) => a + b, 0) / places.length : vertex.order;
      }
      layer.sort((a, b) => a.weight - b.weight || a.order - b.order);
      number(layer);
    }
    const now = crossings(layers);
    if (now < fewest) [best, fewest] = [layers.map((layer) => [...layer]), now];
  }
  best.forEach((layer, index) => (layers[index] = layer));
  layers.forEach(number);
}

/** Number of crossing segments, by counting inversions with a Fenwick tree. */
function crossings(layers) {
  let total = 0;
  for (const layer of layers) {
    const ends = [];
    for (const vertex of layer) {
      const below = vertex.below.map(({ vertex: other }) => other.order).sort((a, b) => a - b);
      ends.push(...below);
    }
    if (ends.length < 2) continue;
    const size = ends.reduce((a, b) => Math.max(a, b), 0) + 2;
    const tree = new Int32Array(size + 1);
    ends.forEach((end, seen) => {
      let notAfter = 0;
      for (let i = end + 1; i > 0; i -= i & -i) notAfter += tree[i];
      total += seen - notAfter;
      for (let i = end + 1; i <= size; i += i & -i) tree[i] += 1;
    });
  }
  return total;
}
