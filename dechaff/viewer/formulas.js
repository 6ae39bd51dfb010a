// Cost formulas: a small parser and evaluator, so that no text of a trace is ever run as code.

const FUNCTIONS = {
  Max: Math.max,
  Min: Math.min,
  floor: Math.floor,
  ceiling: Math.ceil,
  Mod: (a, b) => a - b * Math.floor(a / b),
  sqrt: Math.sqrt,
};
const DEEPEST_FORMULA = 200;

function formulaTokens(text) {
  const tokens = text.match(/\d+\.?\d*(?:e[+-]?\d+)?|[\p{L}_][\p{L}\p{N}_]*|\*\*|[-+*/(),]/gu) || [];
  if (tokens.join("") !== text.replace(/\s+/g, "")) throw new Error("not a formula");
  return tokens;
}

/** Parses a formula; gives a function from sizes by name to a number, with the names it needs. */
function parseFormula(text) {
  const tokens = formulaTokens(text);
  const symbols = new Set();
  let place = 0;
  let depth = 0;
  const take = (wanted) => {
    if (tokens[place] !== wanted) return false;
    place += 1;
    return true;
  };
  const need = (wanted) => {
    if (!take(wanted)) throw new Error(`expected ${wanted}`);
  };
  function sum() {
    depth += 1;
    if (depth > DEEPEST_FORMULA) throw new Error("nested too deeply");
    let left = product();
    while (tokens[place] === "+" || tokens[place] === "-") {
      const sign = tokens[place++] === "+" ? 1 : -1;
      const [a, b] = [left, product()];
      left = (sizes) => a(sizes) + sign * b(sizes);
    }
    depth -= 1;
    return left;
  }
  function product() {
    let left = signed();
    while (tokens[place] === "*" || tokens[place] === "/") {
      const times = tokens[place++] === "*";
      const [a, b] = [left, signed()];
      left = times ? (sizes) => a(sizes) * b(sizes) : (sizes) => a(sizes) / b(sizes);
    }
    return left;
  }
  function signed() {
    if (take("-")) {
      const inner = signed();
      return (sizes) => -inner(sizes);
    }
    const base = atom();
    if (!take("**")) return base;
    const exponent = signed();
    return (sizes) => base(sizes) ** exponent(sizes);
  }
  function atom() {
    if (take("(")) {
      const inner = sum();
      need(")");
      return inner;
    }
    const token = tokens[place++];
    if (token === undefined) throw new Error("ends early");
    if (/^\d/.test(token)) return () => Number(token);
    if (take("(")) return call(token);
    symbols.add(token);
    return (sizes) => (sizes.has(token) ? sizes.get(token) : 1);
  }
  function call(name) {
    if (!Object.hasOwn(FUNCTIONS, name)) throw new Error(`no function ${name}`);
    const operands = [sum()];
    while (take(",")) operands.push(sum());
    need(")");
    return (sizes) => FUNCTIONS[name](...operands.map((operand) => operand(sizes)));
  }
  const evaluate = sum();
  if (place !== tokens.length) throw new Error("goes on after its end");
  return { evaluate, symbols };
}

const parsedFormulas = new Map();

function formula(text) {
  return entry(parsedFormulas, text, () => {
    try {
      return parseFormula(text);
    } catch {
      return { evaluate: () => NaN, symbols: new Set() };
    }
  });
}

/** The value of a formula at sizes; NaN where it is no formula. */
function evaluateFormula(text, sizes) {
  return text ? formula(text).evaluate(sizes) : 0;
}

const PREFIXES = [
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];

/** Three significant digits and a prefix, such as "1.23 G". */
function quantity(value, unit = "") {
  if (!Number.isFinite(value)) return "?";
  const [scale, prefix] = PREFIXES.find(([least]) => Math.abs(value) >= least) || [1, ""];
  const scaled = value / scale;
  const digits = Number.isInteger(scaled) && Math.abs(scaled) < 1000 ? String(scaled) : Number(scaled.toPrecision(3)).toString();
  const suffix = `${prefix}${unit}`;
  return suffix ? `${digits} ${suffix}` : digits;
}

const LEAST_CHANGE = 0.05;

/** A relative change such as "−42 %"; empty if there is none that a tenth of a percent shows. */
function relativeChange(before, after) {
  if (!Number.isFinite(before) || !Number.isFinite(after) || before === after || before === 0) return "";
  const share = (100 * (after - before)) / before;
  if (Math.abs(share) < LEAST_CHANGE) return "";
  const digits = Math.abs(share) < 10 ? share.toFixed(1) : share.toFixed(0);
  return `${share > 0 ? "+" : "−"}${digits.replace("-", "")} %`;
}

function seconds(value) {
  if (value === undefined || value === null) return "";
  if (value < 0.001) return "<1 ms";
  return value < 1 ? `${Math.round(1000 * value)} ms` : `${value.toFixed(1)} s`;
}
