// The log of what happened: filtered by feed and severity, and to be kept as a file.

import * as api from "./api.js";
import { h } from "./dom.js";
import { followEvents } from "./follow.js";

/** Events that the page keeps; the node has more. */
const KEPT = 500;
/** Events that are shown until somebody asks for all. */
const SHOWN = 12;

const SEVERITIES = { info: "Everything", warning: "Warnings and errors", error: "Errors" };
const RANKS = ["info", "warning", "error"];

const log = { events: [], feed: "", least: "info", all: false, following: null };

/** Follows the events from now on, with those that were before; `draw` is called when one came. */
export async function startEvents(draw) {
  stopEvents();
  const following = new AbortController();
  log.following = following;
  try {
    const { newest, events } = await api.events();
    if (following.signal.aborted) return;
    log.events = events;
    draw();
    await followEvents(newest, (event) => {
      log.events = [...log.events, event].slice(-KEPT);
      draw();
    }, following.signal);
  } catch {
    // The status says that nobody answers.
  }
  if (log.following === following) log.following = null;
}

export function stopEvents() {
  log.following?.abort();
  log.following = null;
}

export const isFollowing = () => log.following !== null;

export function eventLog(draw, run) {
  const set = (change) => {
    Object.assign(log, change);
    draw();
  };
  const feeds = [...new Set(log.events.map((event) => event.feed).filter(Boolean))].sort();
  // A feed that nothing happened to any more is not to hide everything.
  if (log.feed && !feeds.includes(log.feed)) feeds.push(log.feed);
  const found = log.events.filter((event) =>
    (!log.feed || event.feed === log.feed) && RANKS.indexOf(event.severity) >= RANKS.indexOf(log.least)).reverse();
  const shown = log.all ? found : found.slice(0, SHOWN);
  return h("section", { key: "events", class: "events" },
    h("h2", {}, "What happened"),
    h("div", { class: "actions" },
      choice("Feed", log.feed, [["", "All feeds"], ...feeds.map((feed) => [feed, feed])], (feed) => set({ feed })),
      choice("Severity", log.least, Object.entries(SEVERITIES), (least) => set({ least }))),
    shown.length === 0 && h("p", { class: "quiet" }, "Nothing yet."),
    h("ol", {}, shown.map((event) => h("li", { key: `event ${event.id}`, class: event.severity },
      h("time", { datetime: event.time, title: event.time }, clock(event.time)),
      h("b", {}, event.kind.replaceAll("_", " ")),
      h("span", {}, event.text)))),
    h("div", { class: "actions" },
      found.length > SHOWN && h("button", { onclick: () => set({ all: !log.all }) }, log.all ? "Show less" : `Show all ${found.length}`),
      h("button", { onclick: () => run(() => keep("text", "firstmile-events.txt")) }, "Save as text"),
      h("button", { onclick: () => run(() => keep("ndjson", "firstmile-events.ndjson")) }, "Save as JSON lines")));
}

function choice(label, chosen, options, onchange) {
  return h("select", { "aria-label": label, onchange: (event) => onchange(event.target.value) },
    options.map(([value, word]) => h("option", { key: `option ${value}`, value, selected: value === chosen }, word)));
}

/** Time of day where the page is looked at, with the date if it was another day. */
function clock(time) {
  const at = new Date(time);
  const day = at.toDateString() === new Date().toDateString() ? "" : `${at.toLocaleDateString()} `;
  return day + at.toLocaleTimeString();
}

/** Saves all events that the filter lets through; a link could not send the token. */
async function keep(format, name) {
  const address = URL.createObjectURL(await api.eventsFile(format, log.feed, log.least));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
