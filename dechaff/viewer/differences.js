// What differs between two graphs whose nodes have stable ids.

const MARKS = { added: "+", removed: "−", changed: "~", rewired: "↔", same: "" };

function sameMap(left, right) {
  return JSON.stringify(left || {}) === JSON.stringify(right || {});
}

/** added, removed, changed (operator, attributes or result types), rewired (operands only), same. */
function statusOf(before, after) {
  if (!before) return "added";
  if (!after) return "removed";
  if (before === after) return "same";
  const types = (node) => (node.outputs || []).map(([, type]) => type).join();
  if (operatorName(before) !== operatorName(after)) return "changed";
  if (types(before) !== types(after) || !sameMap(before.attributes, after.attributes)) return "changed";
  const names = (node) => JSON.stringify([node.inputs, (node.outputs || []).map(([name]) => name)]);
  return names(before) === names(after) ? "same" : "rewired";
}

/** Indices of a longest increasing subsequence. */
function increasing(numbers) {
  const tails = [];
  const before = new Array(numbers.length).fill(-1);
  numbers.forEach((number, index) => {
    let low = 0;
    let high = tails.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (numbers[tails[middle]] < number) low = middle + 1;
      else high = middle;
    }
    before[index] = low > 0 ? tails[low - 1] : -1;
    tails[low] = index;
  });
  const chosen = [];
  for (let index = tails.length ? tails[tails.length - 1] : -1; index >= 0; index = before[index]) chosen.push(index);
  return chosen.reverse();
}

/** Both lists of ids in one, each id once, what is common in the order of the second. */
function mergedOrder(before, after) {
  const place = new Map(before.map((id, index) => [id, index]));
  const kept = after.filter((id) => place.has(id));
  const anchors = increasing(kept.map((id) => place.get(id))).map((index) => kept[index]);
  const known = new Set(after);
  const merged = [];
  let next = 0;
  let left = 0;
  for (const anchor of [...anchors, null]) {
    const stop = anchor === null ? before.length : place.get(anchor);
    for (; left < stop; left += 1) if (!known.has(before[left])) merged.push(before[left]);
    while (next < after.length && after[next] !== anchor) merged.push(after[next++]);
    if (anchor !== null) {
      merged.push(anchor);
      next += 1;
      left += 1;
    }
  }
  return merged;
}

/** Nodes of both graphs with their status, in one order. */
function compareGraphs(before, after) {
  const leaves = mergedOrder(before.order, after.order).map((id) => {
    const pair = { id, before: before.nodes.get(id), after: after.nodes.get(id) };
    pair.status = statusOf(pair.before, pair.after);
    pair.node = pair.after || pair.before;
    return pair;
  });
  const counts = { added: 0, removed: 0, changed: 0, rewired: 0, same: 0 };
  for (const leaf of leaves) counts[leaf.status] += 1;
  return { leaves, counts, before, after };
}
