// A feed's card: a function of its snapshot, its last two minutes and what is open on the page.

import { h } from "./dom.js";
import { graph } from "./history.js";
import { keyLine } from "./keys.js";
import { screen } from "./preview.js";
import { setup } from "./setup.js";
import { STATES, bytes, count, delayOf, kbpsOf, ms, placeOf, rate, span, stateOf, wayOf } from "./words.js";

/** The players of a feed that a card names; the rest is a number. */
const PLAYERS_SHOWN = 4;

// The least that the graphs reach up to.
const CALM_KBPS = 100;
const CALM_MS = 200;

// An encoder that is less late than this is as prompt as its frames allow.
const PROMPT_MS = 300;

export function card(feed, points, links, ui, act) {
  const state = stateOf(feed);
  const [word, meaning] = STATES[state] ?? [state, ""];
  return h("article", { key: `feed ${feed.studio ?? ""}/${feed.name}`, class: `card ${state}` },
    h("header", {},
      h("h2", {}, feed.name, feed.studio && h("small", {}, ` of ${feed.studio}`)),
      h("p", { class: "state", title: meaning }, word),
      feed.recording?.on && h("p", { class: "rec" }, "● REC")),
    feed.problems.map((problem) => h("div", { key: `problem ${problem.place} ${problem.text.slice(0, 12)}`, class: problem.advice ? "problem advice" : "problem" },
      h("b", {}, problem.place), h("p", {}, problem.text), h("p", { class: "remedy" }, problem.remedy))),
    ui.canChange && feed.state !== "waiting" && screen(feed),
    keyLine(feed),
    figures(feed),
    way(feed, links),
    feed.publication && h("div", { key: "graphs", class: "graphs" },
      graph(points, "kbps", "Bitrate", CALM_KBPS, rate(kbpsOf(feed)), rate),
      graph(points, "delay", "Delay on the way", CALM_MS, ms(delayOf(feed)), ms)),
    recording(feed),
    ui.canChange && actions(feed, ui, act),
    ui.canChange && ui.open === feed.name && setup(feed, links, ui, act));
}

function figures(feed) {
  if (!feed.publication) {
    return h("p", { key: "figures", class: "quiet" }, feed.state === "waiting" ? "No encoder is here." : "Waiting for the encoder to come back.");
  }
  const { video, audio } = feed;
  const size = video?.width && video?.height ? `${video.width}×${video.height}` : "–";
  const codecs = [video?.codec ?? "no picture", audio?.codec ?? "no sound"].join(" + ");
  return h("dl", { key: "figures", class: "figures" },
    figure("Bitrate", rate(kbpsOf(feed))),
    figure("Frames", video?.fps ? `${video.fps.toFixed(video.fps < 10 ? 1 : 0)} fps` : "–"),
    figure("Picture", size),
    figure("Codec", codecs),
    video && figure("Keyframes", video.keyframe_interval_s ? `every ${video.keyframe_interval_s.toFixed(1)} s` : "–"),
    figure("On air", span(feed.since_s)));
}

const figure = (label, value) => h("div", {}, h("dt", {}, label), h("dd", {}, value));

/** The stations between encoder and players. */
function way(feed, links) {
  const { latency } = feed;
  const sick = new Set(feed.problems.filter((problem) => !problem.advice).map((problem) => problem.place));
  const step = (place, title, ...lines) =>
    h("li", { class: sick.has(place) ? "sick" : "" }, h("b", {}, title), lines.filter(Boolean).map((line) => h("span", {}, line)));
  const ways = links.filter((link) => link.peer === feed.via);
  const growth = latency.encoder_growth_ms;
  const late = (growth ?? 0) < PROMPT_MS ? "in time" : `${ms(growth)} late`;
  const queue = latency.relay_queue_ms;
  const wait = latency.player_queue_ms;
  const stalls = feed.encoder_stalls;
  const stalled = stalls?.last_minute > 0 && `stalled ${stalls.last_minute}× in a minute, up to ${ms(stalls.longest_ms)}`;
  const players = feed.player_list.slice(0, PLAYERS_SHOWN).map((player) => {
    const skipped = player.skipped_tags > 0 ? `, skipped ${player.skipped_tags}` : "";
    return [h("bdi", {}, player.client || "a player"), `: waits ${player.queue_ms ? ms(player.queue_ms.p50) : "–"}${skipped}`];
  });
  const more = feed.players - players.length;
  if (feed.studio) return relayWay(feed, links, [late, stalled], step);
  return h("ol", { key: "way", class: "way" },
    step("encoder", "Encoder", ...(feed.publication && !feed.held ? [late, stalled] : [feed.held ? "kept by the relay" : "not here"])),
    feed.via && step("relay", h("bdi", {}, feed.via), placeOf(ways[0])),
    feed.via && step("backhaul", "Backhaul", ways.map(uplink),
      queue && `queue ${ms(queue.p50)}, worst ${ms(queue.p99)}`,
      latency.backhaul_ms !== null && `one way ${ms(latency.backhaul_ms)}`,
      feed.drops.skipped_tags > 0 && `skipped ${feed.drops.skipped_tags}`,
      feed.drops.backfilled_tags > 0 && `backfilled ${feed.drops.backfilled_tags}`),
    step("player", "Players", count(feed.players, "player", "players"),
      feed.play_delay_ms > 0 && `kept ${ms(feed.play_delay_ms)} behind`,
      wait && `worst waits ${ms(wait.p50)}`, players, more > 0 && players.length > 0 && `and ${more} more`));
}

/** One of the links that a feed comes by: there is one for each uplink. */
function uplink(link) {
  const own = link.local ? `, from ${link.local}` : "";
  return h("span", { class: "uplink" }, link.state === "up" ? wayOf(link) + own : `${link.transport.toUpperCase()}, lost${own}`);
}

/** The same as a relay sees it: its feeds end at a studio. */
function relayWay(feed, links, late, step) {
  const studio = links.find((link) => link.peer.endsWith(`(${feed.studio})`));
  const isUp = studio?.state === "up";
  return h("ol", { key: "way", class: "way" },
    step("encoder", "Encoder", ...(feed.publication ? late : ["not here"])),
    step("relay", "This relay", feed.record_survives_s && `the studio may be away for ${span(feed.record_survives_s)}`),
    step("backhaul", "Studio", isUp ? "connected" : "not connected",
      isUp && wayOf(studio)));
}

function recording(feed) {
  const it = feed.recording;
  if (!it || (!it.on && it.publications === 0)) return null;
  const parts = [it.on ? "Recording" : "Not recording", count(it.publications, "recording", "recordings"), bytes(it.bytes)];
  if (it.missing > 0) parts.push(`${it.missing} still to come`);
  if (it.gone > 0) parts.push(`${it.gone} gone for good`);
  if (it.dropped > 0) parts.push(`${it.dropped} the disk did not take`);
  return h("p", { key: "recording", class: it.gone > 0 || it.dropped > 0 ? "recording sick" : "recording" }, parts.join(" · "));
}

function actions(feed, ui, act) {
  const isOpen = ui.open === feed.name;
  const on = feed.recording?.on ?? false;
  return h("div", { key: "actions", class: "actions" },
    h("button", { class: "main", "aria-expanded": String(isOpen), onclick: () => act.open(isOpen ? null : feed.name) },
      isOpen ? "Close" : "Set up an encoder"),
    h("button", { onclick: () => act.run(() => act.api.record(feed.name, !on)) }, on ? "Stop recording" : "Record"),
    feed.validity?.paused
      ? h("button", { class: "main", onclick: () => act.run(() => act.api.pause(feed.name, false)) }, "Resume")
      : armed(ui, act, `pause ${feed.name}`, "Pause", "Really? The encoder is cut", () => act.api.pause(feed.name, true)),
    armed(ui, act, `rotate ${feed.name}`, "New key", "Really? The encoder is cut", () => act.api.rotate(feed.name)),
    armed(ui, act, `remove ${feed.name}`, "Remove", "Really? Feed and key go", () => act.api.removeFeed(feed.name)));
}

/** A button that has to be pressed twice. */
function armed(ui, act, what, label, question, call) {
  const isArmed = ui.armed === what;
  return h("button", {
    class: isArmed ? "danger" : "",
    onclick: () => (isArmed ? act.run(call) : act.arm(what)),
  }, isArmed ? question : label);
}
