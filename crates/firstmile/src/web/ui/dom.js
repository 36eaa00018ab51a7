// A page is a tree of plain objects; `patch` makes the document like it.
// Strings become text nodes, never markup, and nothing in them is invisible or turns the direction of
// writing: what stands beside a peer's name is not its to change. Elements that stay keep focus and listeners.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "polyline", "line", "rect", "text", "title"]);

const INVISIBLE = /[\p{Cc}\p{Cf}\u2028\u2029]/gu;

/** A text without what nobody sees. */
export const plain = (item) => String(item).replace(INVISIBLE, "\ufffd");

/**
 * An element: tag, attributes (`onX` are listeners, `key` tells siblings apart, with `own` its children
 * are left alone), children.
 */
export function h(tag, attributes = {}, ...children) {
  const kept = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  return { tag, attributes, children: kept };
}

/** Makes the children of `parent` like `tree`. */
export function patch(parent, tree) {
  const old = [...parent.childNodes];
  const byKey = new Map();
  for (const node of old) if (node.fmKey !== undefined) byKey.set(node.fmKey, node);
  const unkeyed = old.filter((node) => node.fmKey === undefined);
  const wanted = [].concat(tree).map((item) => {
    const key = typeof item === "object" ? item.attributes.key : undefined;
    let node;
    if (key !== undefined) node = byKey.get(key);
    else if (unkeyed.length > 0 && fits(unkeyed[0], item)) node = unkeyed.shift();
    return fits(node, item) ? update(node, item) : create(item);
  });
  const stays = new Set(wanted);
  for (const node of old) if (!stays.has(node)) node.remove();
  wanted.forEach((node, index) => {
    if (parent.childNodes[index] !== node) parent.insertBefore(node, parent.childNodes[index] ?? null);
  });
}

function fits(node, item) {
  if (!node) return false;
  if (typeof item !== "object") return node.nodeType === Node.TEXT_NODE;
  return node.fmTag === item.tag;
}

function create(item) {
  if (typeof item !== "object") return document.createTextNode(plain(item));
  const node = SVG_TAGS.has(item.tag) ? document.createElementNS(SVG, item.tag) : document.createElement(item.tag);
  node.fmTag = item.tag;
  node.fmKey = item.attributes.key;
  node.fmOn = {};
  node.fmSet = {};
  return update(node, item);
}

function update(node, item) {
  if (typeof item !== "object") {
    const text = plain(item);
    if (node.data !== text) node.data = text;
    return node;
  }
  if (!item.attributes.own) patch(node, item.children);
  const set = {};
  for (const [name, value] of Object.entries(item.attributes)) {
    if (name === "key" || name === "own" || value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) {
      const event = name.slice(2).toLowerCase();
      // One listener for good; what it calls is the latest.
      if (!node.fmOn[event]) node.addEventListener(event, (happened) => node.fmOn[event](happened));
      node.fmOn[event] = value;
      continue;
    }
    const text = value === true ? "" : String(value);
    if (node.fmSet[name] !== text) {
      node.setAttribute(name, text);
      if (name === "value") node.value = text;
    }
    set[name] = text;
  }
  for (const name of Object.keys(node.fmSet)) if (!(name in set)) node.removeAttribute(name);
  node.fmSet = set;
  return node;
}
