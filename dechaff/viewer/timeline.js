// The list of passes: time, what changed, and what did not.

/** Whether the list holds a step: with "changed only", those that did something. */
function isListed(step, { changedOnly }) {
  return !changedOnly || step.changed || step.kind === "import" || Boolean(step.undone);
}

function opsDelta(step) {
  if (step.kind === "import") return `${step.graphAfter.nodes.size} ops`;
  const change = step.graphAfter.nodes.size - step.graphBefore.nodes.size;
  return change === 0 ? "" : `${change > 0 ? "+" : "−"}${Math.abs(change)} ops`;
}

function changeText(before, now, key) {
  const change = relativeChange(before, now);
  return change && `${change} ${key === "flops" ? "FLOPs" : key}`;
}

function worstError(step) {
  const errors = (step.errors || []).filter((item) => item.max_abs_error !== null);
  return errors.length ? Math.max(...errors.map((item) => item.max_abs_error)) : null;
}

function drawTimeline(place, steps, state, sizes, onStep) {
  const figures = steps.map((step) => graphFigures(step.graphAfter, sizes));
  const slowest = Math.max(1e-9, ...steps.map((step) => step.seconds || 0));
  const rows = steps
    .filter((step) => isListed(step, state))
    .map((step) => timelineRow(step, steps, figures, slowest, state, onStep));
  place.replaceChildren(...rows);
  const current = place.querySelector('[aria-current="step"]');
  if (current) current.scrollIntoView({ block: "nearest" });
}

function timelineRow(step, steps, figures, slowest, state, onStep) {
  const kind = step.undone ? "undone" : step.changed ? "changed" : step.kind === "import" ? "import" : "idle";
  const misses = (step.near_misses || []).length;
  const error = worstError(step);
  const before = figures[Math.max(0, step.index - 1)];
  const now = figures[step.index];
  const facts = [
    opsDelta(step),
    ...(step.changed ? ["flops", "bytes", "parameters"].map((key) => changeText(before[key], now[key], key)) : []),
    step.undone && "undone: wrong numbers",
    misses && `${misses} near miss${misses === 1 ? "" : "es"}`,
    error !== null && `error ${error.toExponential(1)}`,
  ].filter(Boolean);
  const bar = element("span", { class: "time-bar" }, element("i"));
  bar.firstChild.style.width = `${Math.max(0, (100 * (step.seconds || 0)) / slowest)}%`;
  return element(
    "li",
    { class: `step ${kind}` },
    element(
      "button",
      { type: "button", "aria-current": step.index === state.step ? "step" : null, "data-step": step.index, onclick: () => onStep(step.index) },
      element("span", { class: "dot", "aria-label": kind }, { changed: "●", undone: "✕", idle: "○", import: "▸" }[kind]),
      element("span", { class: "step-name" }, shown(step.name, 90)),
      element("span", { class: "time" }, seconds(step.seconds)),
      facts.length ? element("span", { class: "facts" }, facts.join(" · ")) : null,
      step.seconds ? bar : null
    )
  );
}

/** One field per symbol of the formulas. */
function drawSizes(place, sizes, onChange) {
  const fields = [...sizes].map(([name, value]) =>
    element(
      "label",
      { class: "size" },
      `${shown(name, 16)} `,
      element("input", {
        type: "number",
        min: 0,
        step: "any",
        value,
        "aria-label": `Size ${shown(name, 40)}`,
        onchange: (event) => {
          const given = Number(event.target.value);
          if (Number.isFinite(given) && given >= 0) onChange(name, given);
        },
      })
    )
  );
  place.replaceChildren(...fields);
}
