// Two minutes of each feed, made from the polls, and their graphs.

import { h } from "./dom.js";
import { delayOf, kbpsOf } from "./words.js";

const LENGTH_MS = 120_000;

// A line goes on over one poll that came late, not over a page that was hidden.
const GAP_MS = 3_500;

const WIDTH = 240;
const HEIGHT = 48;

export const keyOf = (feed) => `${feed.studio ?? ""}/${feed.name}`;

/** Adds one snapshot to what is known; forgets feeds that are gone. */
export function remember(histories, status, now) {
  const next = new Map();
  for (const feed of status.feeds) {
    const known = (histories.get(keyOf(feed)) ?? []).filter((point) => now - point.at < LENGTH_MS);
    const skips = feed.drops.skipped_tags + feed.drops.player_skipped_tags;
    const fills = feed.drops.backfilled_tags ?? 0;
    const before = known.at(-1) ?? { skips, fills };
    known.push({
      at: now,
      kbps: kbpsOf(feed),
      delay: delayOf(feed),
      skips,
      fills,
      skipped: Math.max(0, skips - before.skips),
      filled: Math.max(0, fills - before.fills),
    });
    next.set(keyOf(feed), known);
  }
  return next;
}

/**
 * One graph: `field` of the points over two minutes, with a mark above where tags were skipped, and one
 * below where some came afterwards for the recording. Values far below `calm` stay flat: jitter is no
 * mountain.
 */
export function graph(points, field, label, calm, latest, words) {
  const now = points.at(-1)?.at ?? 0;
  const values = points.map((point) => point[field]).filter((value) => value !== null);
  const top = Math.max(calm, ...values) * 1.1;
  const x = (point) => (WIDTH - ((now - point.at) / LENGTH_MS) * WIDTH).toFixed(1);
  const y = (value) => (HEIGHT - 2 - (value / top) * (HEIGHT - 4)).toFixed(1);
  const lines = [];
  let last = null;
  for (const point of points) {
    if (point[field] === null) {
      last = null;
      continue;
    }
    if (last === null || point.at - last > GAP_MS) lines.push([]);
    lines.at(-1).push(`${x(point)},${y(point[field])}`);
    last = point.at;
  }
  const marks = (count, y1, y2) => points.filter((point) => point[count] > 0).map((point) =>
    h("line", { class: count, x1: x(point), x2: x(point), y1, y2 }));
  const sum = (count) => points.reduce((sum, point) => sum + point[count], 0);
  const [skipped, filled] = [sum("skipped"), sum("filled")];
  return h("figure", { class: `graph ${field}` },
    h("figcaption", {}, h("span", {}, label), h("b", {}, latest),
      values.length > 0 && h("span", { class: "quiet" }, `most ${words(Math.max(...values))}`),
      skipped > 0 && h("span", { class: "skipped" }, `${skipped} skipped`),
      filled > 0 && h("span", { class: "filled" }, `${filled} backfilled`)),
    h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${label}, two minutes` },
      marks("filled", HEIGHT / 2, HEIGHT),
      marks("skipped", 0, HEIGHT / 2),
      lines.map((line) => h("polyline", { points: line.join(" ") }))));
}
