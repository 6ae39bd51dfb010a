// The graph as text, a line per operation, with what a step removed and added.

const CONTEXT = 3;

function drawText(place, comparison, viewer) {
  const rows = [];
  for (const leaf of comparison.leaves) {
    if (leaf.status === "same") rows.push({ leaf, sign: " ", text: nodeText(leaf.node) });
    else if (leaf.status === "added") rows.push({ leaf, sign: "+", text: nodeText(leaf.after) });
    else if (leaf.status === "removed") rows.push({ leaf, sign: "−", text: nodeText(leaf.before) });
    else {
      const [old, now] = [nodeText(leaf.before), nodeText(leaf.after)];
      rows.push({ leaf, sign: "−", text: old, other: now }, { leaf, sign: "+", text: now, other: old });
    }
  }
  place.replaceChildren(...foldRows(rows, viewer.state.hideSame).map((row) => textRow(row, viewer)));
}

/** With `fold`, far from any change only the number of lines is left. */
function foldRows(rows, fold) {
  if (!fold) return rows;
  const near = new Set();
  rows.forEach((row, index) => {
    if (row.sign === " ") return;
    for (let at = index - CONTEXT; at <= index + CONTEXT; at += 1) near.add(at);
  });
  const folded = [];
  rows.forEach((row, index) => {
    const last = folded[folded.length - 1];
    if (near.has(index)) folded.push(row);
    else if (last && last.hidden) last.hidden += 1;
    else folded.push({ hidden: 1 });
  });
  return folded;
}

function textRow(row, viewer) {
  if (row.hidden) return element("div", { class: "fold" }, `${row.hidden} unchanged line${row.hidden === 1 ? "" : "s"}`);
  const kind = { "+": "added", "−": "removed", " ": "same" }[row.sign];
  const content = row.other === undefined ? shown(row.text, 1500) : emphasized(shown(row.text, 1500), shown(row.other, 1500));
  const line = element("div", { class: `line ${kind}`, "data-id": row.leaf.id, onclick: () => viewer.select(row.leaf.id) }, element("span", { class: "sign" }, row.sign), element("code", null, content));
  line.title = row.leaf.node.path ? shown(row.leaf.node.path) : "";
  return line;
}

/** The text with the part that differs from the other one set off. */
function emphasized(text, other) {
  let start = 0;
  while (start < text.length && text[start] === other[start]) start += 1;
  let end = 0;
  const most = Math.min(text.length, other.length) - start;
  while (end < most && text[text.length - 1 - end] === other[other.length - 1 - end]) end += 1;
  const middle = text.slice(start, text.length - end);
  return [text.slice(0, start), middle && element("mark", null, middle), text.slice(text.length - end)];
}

function markLine(place, id) {
  for (const line of place.querySelectorAll(".selected")) line.classList.remove("selected");
  for (const line of place.children) if (line.dataset.id === id && id) line.classList.add("selected");
  const first = place.querySelector(".selected");
  if (first) first.scrollIntoView({ block: "nearest" });
}
