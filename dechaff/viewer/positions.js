// Places in a layered level: across by least squares under the given order, down by layer height.

const GAP = 18;
const WIRE_GAP = 8;
const ALIGNMENT_SWEEPS = 12;

function separation(left, right) {
  return left.width + (left.isDummy && right.isDummy ? WIRE_GAP : left.isDummy || right.isDummy ? WIRE_GAP + 4 : GAP);
}

/** Left edges nearest to the wanted ones that keep order and distances (pooled adjacent violators). */
function spread(layer, wanted, weights) {
  let offset = 0;
  const offsets = layer.map((vertex, index) => {
    if (index > 0) offset += separation(layer[index - 1], vertex);
    return offset;
  });
  const pools = [];
  layer.forEach((_, index) => {
    let pool = { sum: weights[index] * (wanted[index] - offsets[index]), weight: weights[index], count: 1 };
    while (pools.length && pools[pools.length - 1].sum / pools[pools.length - 1].weight > pool.sum / pool.weight) {
      const last = pools.pop();
      pool = { sum: last.sum + pool.sum, weight: last.weight + pool.weight, count: last.count + pool.count };
    }
    pools.push(pool);
  });
  let index = 0;
  for (const pool of pools) {
    for (let count = 0; count < pool.count; count += 1, index += 1) layer[index].x = pool.sum / pool.weight + offsets[index];
  }
}

function alignLayer(layer, near) {
  const wanted = [];
  const weights = [];
  for (const vertex of layer) {
    let sum = 0;
    let weight = 0;
    for (const { vertex: other, own, other: offset, pull } of near(vertex)) {
      sum += pull * (other.x + offset - own);
      weight += pull;
    }
    wanted.push(weight ? sum / weight : vertex.x);
    weights.push(weight || 0.1);
  }
  spread(layer, wanted, weights);
}

/** Sets x (left edge) of every vertex, from 0; gives the width. */
function placeAcross(layers) {
  for (const layer of layers) {
    let x = 0;
    layer.forEach((vertex, index) => {
      if (index > 0) x += separation(layer[index - 1], vertex);
      vertex.x = x;
    });
    const shift = (x + (layer.length ? layer[layer.length - 1].width : 0)) / 2;
    for (const vertex of layer) vertex.x -= shift;
  }
  for (let sweep = 0; sweep < ALIGNMENT_SWEEPS; sweep += 1) {
    for (const layer of layers) alignLayer(layer, (vertex) => vertex.above);
    for (const layer of [...layers].reverse()) alignLayer(layer, (vertex) => vertex.below);
  }
  for (const layer of layers) alignLayer(layer, (vertex) => [...vertex.above, ...vertex.below]);
  let least = Infinity;
  let most = -Infinity;
  for (const layer of layers) {
    for (const vertex of layer) {
      least = Math.min(least, vertex.x);
      most = Math.max(most, vertex.x + vertex.width);
    }
  }
  for (const layer of layers) for (const vertex of layer) vertex.x -= least;
  return Math.max(0, most - least);
}

/** Sets y (top) of every vertex, and the layer's extent; gives the height. */
function placeDown(layers) {
  let y = 0;
  layers.forEach((layer, rank) => {
    const height = layer.reduce((most, vertex) => Math.max(most, vertex.height), 0);
    for (const vertex of layer) {
      vertex.top = y;
      vertex.bottom = y + height;
      vertex.y = vertex.isDummy ? y : y + (height - vertex.height) / 2;
    }
    y += height;
    if (rank < layers.length - 1) y += gapBelow(layer);
  });
  return y;
}

/** More room where wires lead far across. */
function gapBelow(layer) {
  let farthest = 0;
  for (const vertex of layer) {
    for (const { vertex: other, own, other: offset } of vertex.below) {
      farthest = Math.max(farthest, Math.abs(vertex.x + own - other.x - offset));
    }
  }
  return 24 + Math.min(28, farthest / 14);
}
