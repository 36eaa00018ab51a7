// Until when a feed's key is good, and whether it is paused.

import { h } from "./dom.js";

/** Times of day are this browser's: the studio knows seconds only. */
const told = (seconds) => new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

/** A line for the card, if the key is not good for ever. */
export function keyLine(feed) {
  const { paused, until_s: until, expired } = feed.validity ?? {};
  if (paused) return h("p", { key: "key", class: "key sick" }, "Paused: its key lets no encoder in.");
  if (!until) return null;
  return h("p", { key: "key", class: expired ? "key sick" : "key" }, `Its key ${expired ? "was good" : "is good"} until ${told(until)}.`);
}

function tonight() {
  const end = new Date();
  end.setHours(23, 59, 59, 0);
  // Shortly before midnight the next one is meant.
  if (end - Date.now() < 60_000) end.setDate(end.getDate() + 1);
  return Math.floor(end / 1000);
}

/** How long the key lets encoders in. */
export function keyTime(feed, act) {
  const limit = (valid) => act.run(() => act.api.limit(feed.name, valid));
  const until = (event) => {
    event.preventDefault();
    const at = Date.parse(event.target.elements.until.value);
    if (Number.isFinite(at)) limit({ until_s: Math.floor(at / 1000) });
  };
  return h("div", { key: "key time", class: "keytime" },
    h("h3", {}, "How long may encoders come with this key?"),
    h("div", { class: "choice", role: "group" },
      h("button", { onclick: () => limit({ for_s: 7200 }) }, "2 hours"),
      h("button", { onclick: () => limit({ until_s: tonight() }) }, "Tonight, 23:59"),
      h("button", { class: feed.validity?.until_s ? "" : "chosen", onclick: () => limit({}) }, "For ever")),
    h("form", { class: "actions", onsubmit: until },
      h("input", { name: "until", type: "datetime-local", "aria-label": "Until this date and time" }),
      h("button", {}, "Until then")),
    h("p", { class: "quiet" }, "An encoder that is on air when the time is over stays until it leaves. To end it at once, press Pause or New key."));
}
