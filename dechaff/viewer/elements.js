// Making elements. All text goes in as text nodes or attributes: names from a model are never markup.

const SVG_SPACE = "http://www.w3.org/2000/svg";

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) made.append(child);
  }
  return made;
}

/** An HTML element; attributes that begin with "on" are listeners. */
function element(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
function shape(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG_SPACE, tag), attributes, children);
}

function byId(id) {
  return document.getElementById(id);
}

const LONGEST_SHOWN = 400;

/** A name fit to be shown: control and direction marks made visible, an overlong one cut. */
function shown(text, most = LONGEST_SHOWN) {
  const plain = String(text).replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
  return plain.length > most ? `${plain.slice(0, most - 1)}…` : plain;
}

/** A Map's entry, made on first use. */
function entry(map, key, make) {
  if (!map.has(key)) map.set(key, make());
  return map.get(key);
}
