// The code that was generated for a step: a list of kernels, each to be opened.

const MOST_OF_LINE = 2000;

function drawCode(place, step) {
  const { code } = step;
  const rest = code.omitted ? element("p", { class: "more" }, `and ${code.omitted} more, left out of the trace for their size`) : null;
  const kernels = code.kernels.map(([name, text], index) => kernel(name, text, index === 0));
  place.replaceChildren(element("p", { class: "code-title" }, shown(code.target, 200)), ...kernels, ...(rest ? [rest] : []));
}

function kernel(name, text, open) {
  const lines = text.split("\n");
  const content = lines.map((line) => shown(line.replaceAll("\t", "  "), MOST_OF_LINE)).join("\n");
  return element(
    "details",
    { class: "kernel", open },
    element("summary", null, element("b", null, shown(name, 200)), ` ${lines.length} lines`),
    element("pre", null, element("code", null, content))
  );
}
