// Figures as people say them.

import { h } from "./dom.js";

export const STATES = {
  waiting: ["Waiting", "no encoder is here"],
  live: ["Live", "media comes as it should"],
  weak: ["Weak", "live, with a problem on the way here"],
  held: ["Held", "the way to the relay is lost: the relay keeps the encoder, players are held"],
  stalled: ["Stalled", "an encoder is here and sends nothing"],
  reconnecting: ["Reconnecting", "the encoder or the way to it is lost, players are held"],
};

/** The state in one word of STATES. */
export function stateOf(feed) {
  if (feed.held) return "held";
  return feed.weak && feed.state === "live" ? "weak" : feed.state;
}

export const known = (value) => value !== null && value !== undefined;

export function rate(kbps) {
  if (!known(kbps)) return "–";
  return kbps < 1000 ? `${Math.round(kbps)} kb/s` : `${(kbps / 1000).toFixed(1)} Mb/s`;
}

export function ms(value) {
  if (!known(value)) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return value < 10 ? `${Math.max(0, value).toFixed(1)} ms` : `${Math.round(value)} ms`;
}

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

export function span(seconds) {
  if (!known(seconds)) return "–";
  const whole = Math.floor(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export const percent = (part) => (known(part) ? `${(part * 100).toFixed(part < 0.1 ? 1 : 0)} %` : "–");

/** A link's transport, round trip, and loss where that is known: over TCP the system keeps it to itself. */
export const wayOf = (link) => [link.transport.toUpperCase(), `round trip ${ms(link.rtt_ms)}`,
  known(link.loss) && `loss ${percent(link.loss)}`].filter(Boolean).join(", ");

export const count = (n, one, many) => `${n} ${n === 1 ? one : many}`;

/** Picture and sound together; nothing while neither comes. */
export function kbpsOf(feed) {
  if (!feed.video && !feed.audio) return null;
  return (feed.video?.kbps ?? 0) + (feed.audio?.kbps ?? 0);
}

/** From the encoder's socket to the slowest player's, without what the encoder itself adds. */
export function delayOf(feed) {
  const { encoder_growth_ms: growth, relay_queue_ms: relay, backhaul_ms: way, player_queue_ms: players } = feed.latency;
  const late = [growth, relay?.p50, way].filter(known).reduce((sum, hop) => sum + Math.max(0, hop), 0);
  // What players wait for on purpose hides what came late.
  const hops = [growth, relay?.p50, way, players?.p50].filter(known).length === 0 ? []
    : [Math.max(late, feed.play_delay_ms ?? 0), players?.p50].filter(known);
  return hops.length === 0 || !feed.publication ? null : hops.reduce((sum, hop) => sum + Math.max(0, hop), 0);
}

/** Where a relay is and how much it has to do, as it says. */
export function placeOf(link) {
  const load = known(link?.load) && `load ${percent(link.load)}`;
  const parts = [link?.region && h("bdi", {}, link.region), load].filter(Boolean);
  return parts.length > 0 && parts.flatMap((part, index) => (index > 0 ? [", ", part] : [part]));
}
