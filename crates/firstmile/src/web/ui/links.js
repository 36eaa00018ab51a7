// The node's links: a studio's relays, or a relay's studios.

import { h } from "./dom.js";
import { placeOf, wayOf } from "./words.js";

const STATES = { up: "connected", connecting: "not connected", racing: "silent, being called anew", refused: "refused" };

export function linkList(status) {
  const title = status.role === "relay" ? "Studios" : "Relays";
  const none = status.role === "relay"
    ? "No studio has joined yet. Run the line that this relay printed at its start."
    : "No relay is joined: encoders have to reach this machine. Start the studio with the --join link of a relay.";
  return h("section", { class: "links" },
    h("h2", {}, title),
    status.links.length === 0 && h("p", { class: "quiet" }, none),
    status.links.map((link) => h("div", { key: `link ${link.peer}`, class: `link ${link.state}` },
      h("b", {}, link.peer),
      h("span", { class: "word" }, STATES[link.state] ?? link.state),
      h("span", { class: "quiet" }, link.state === "up"
        ? `${wayOf(link)} · ${link.address}`
        : link.address),
      h("span", { class: "quiet" }, placeOf(link)),
      link.state !== "up" && link.last_error && h("span", { class: "quiet" }, link.last_error))));
}
