// What to type into an encoder, or to point its camera at.

import { h } from "./dom.js";
import { keyTime } from "./keys.js";
import { ms, placeOf } from "./words.js";

/** Where each encoder has its fields; see docs/encoders.md for more. */
const ENCODERS = {
  OBS: ["Settings, Stream: Service “Custom…”, Server and Stream Key as above, “Use authentication” off.",
    "Settings, Output, Advanced: Keyframe Interval 2 s, Rate Control CBR, Tune zerolatency."],
  vMix: ["The cog beside “Stream”: Destination “Custom RTMP Server”. URL is the Server, Stream Name or Key is the Stream key.",
    "Quality: keyframe interval 2 s."],
  Teradek: ["Add an RTMP destination with two fields: Server is the Server, “Stream” or “Stream key” is the Stream key. No user, no password.",
    "Constant bitrate, GOP 1 or 2 s, at most two thirds of the uplink."],
  DJI: ["In the camera view: “…”, Transmission or Live Streaming, RTMP. It has one field: the URL with the key."],
  GoPro: ["In the app: Live, “Other (RTMP)”. It has one field: the URL with the key."],
  Larix: ["Scan the code “Larix” with the phone's camera and allow it.",
    "By hand: Settings, Connections, New: the URL with the key, mode “Audio + Video”. Video: keyframe frequency 2 s."],
  Moblin: ["Scan the code “Moblin” with the iPhone's camera and allow it: it makes a stream and chooses it.",
    "By hand: Settings, Streams, Create: Custom, RTMP, the URL with the key. Video: key frame interval 2 s."],
  "IRL Pro": ["Scan the code “Larix” in the app, or the one of the URL.", "Settings: keyframe interval 2 s."],
  Others: ["Two fields: Server and Stream key. One field: the URL with the key.",
    "A box that cuts long names takes the last 26 characters of the key alone."],
};

/** What each QR code is for. */
const CODES = {
  larix: "Larix Broadcaster: scan it with the phone's camera. IRL Pro: scan it in the app.",
  moblin: "Moblin: scan it with the iPhone's camera.",
  url: "Apps and cameras that take an RTMP address as a QR code.",
  measure: "Open it on the phone, on location: it measures round trip and upload to this relay, and leads on to your others.",
};

export function setup(feed, links, ui, act) {
  const publish = feed.publish[ui.place] ?? feed.publish[0];
  if (!publish) return h("div", { key: "setup", class: "setup" }, h("p", {}, "This feed has no place to publish to."));
  const place = feed.publish.indexOf(publish);
  const tls = ui.tls && Boolean(publish.server_tls);
  const server = tls ? publish.server_tls : publish.server;
  const url = `${server}/${publish.key}`;
  const code = (label, form) => h("button", { onclick: () => act.qr(feed.name, place, form, tls) }, label);
  return h("div", { key: "setup", class: "setup" },
    h("h3", {}, "Where does the encoder send to?"),
    h("div", { class: "choice", role: "group" },
      feed.publish.map((one, index) => choice(relayLabel(one, links), index === place, () => act.setup({ place: index, qr: null })))),
    publish.measure && h("p", { class: "quiet" },
      "Take the one with the shortest round trip that is not busy. What counts is the encoder's way: ",
      code("QR to measure it on location", "measure")),
    publish.server_tls && h("div", { class: "choice", role: "group" },
      choice("RTMP", !tls, () => act.setup({ tls: false, qr: null })),
      choice("RTMPS (encrypted)", tls, () => act.setup({ tls: true, qr: null }))),
    field("Server", server, true, ui, act),
    field("Stream key", publish.key, ui.shown, ui, act),
    field("URL with the key, for encoders with one field", url, ui.shown, ui, act),
    h("div", { class: "actions" },
      h("button", { onclick: () => act.setup({ shown: !ui.shown }) }, ui.shown ? "Hide the key" : "Show the key"),
      code("QR for Larix, IRL Pro", "larix"),
      code("QR for Moblin", "moblin"),
      code("QR of the URL", "url"),
      ui.qr && h("button", { onclick: () => act.setup({ qr: null }) }, "Hide the QR")),
    ui.qr && h("figure", { class: "qr" },
      h("img", { src: ui.qr.picture, alt: ui.qr.form === "measure" ? "QR code of the measuring page" : "QR code with the stream key", width: 320, height: 320 }),
      h("figcaption", {}, CODES[ui.qr.form]),
      ui.qr.form === "measure" ? h("figcaption", { class: "quiet" }, publish.measure)
        : h("figcaption", { class: "quiet" }, "Who scans it can send to this feed.")),
    keyTime(feed, act),
    h("h3", {}, "How?"),
    h("div", { class: "choice", role: "group" },
      Object.keys(ENCODERS).map((name) => choice(name, name === ui.encoder, () => act.setup({ encoder: name })))),
    h("ul", {}, ENCODERS[ui.encoder].map((line) => h("li", {}, line))),
    h("p", { class: "quiet" }, "H.264 and AAC, keyframe every 1 or 2 s, constant bitrate, reconnecting on."),
    feed.play && h("h3", {}, "Watch it"),
    feed.play && field("In OBS, vMix or VLC on the studio's machine", feed.play, true, ui, act),
    feed.play_lan && field("From another machine on the LAN", feed.play_lan, ui.shown, ui, act),
    timing(feed, act));
}

/** When players get the feed. */
function timing(feed, act) {
  const number = (name, label, value, max) => h("label", {}, label,
    h("input", { name, type: "number", min: 0, max, step: 50, inputmode: "numeric", required: true, value: String(value) }));
  return h("form", { key: "timing", class: "timing", onsubmit: (event) => {
    event.preventDefault();
    const { delay, late } = event.target.elements;
    const set = { play_delay_ms: Number(delay.value), play_max_delay_ms: Number(late.value) };
    act.run(() => act.api.setTiming(feed.name, set));
  } },
    number("delay", "Constant delay, ms", feed.play_delay_ms ?? 0, 10000),
    number("late", "Skip when later by, ms", feed.play_max_delay_ms ?? 2000, 60000),
    h("button", {}, "Set"),
    h("p", { class: "quiet" }, "A constant delay hides what comes late by less, and brings feeds in step. Players jump once when it changes."));
}

/** A relay as one chooses it: its round trip from here, where it is, how busy. */
function relayLabel(publish, links) {
  const link = links.find((link) => link.peer === publish.relay);
  if (!link) return publish.relay;
  const trip = link.state === "up" ? ms(link.rtt_ms) : "not connected";
  const place = placeOf(link);
  return [h("bdi", {}, publish.relay), h("small", {}, " ", trip, place && ", ", place)];
}

const choice = (label, chosen, onclick) => h("button", { class: chosen ? "chosen" : "", "aria-pressed": String(chosen), onclick }, label);

/** A text to copy; a secret one is dots until it is asked for. */
function field(label, text, isShown, ui, act) {
  const shown = isShown ? text : "•".repeat(24);
  return h("div", { class: "field" },
    h("label", {}, label),
    h("code", {}, shown),
    h("button", { onclick: () => act.copy(label, text) }, ui.copied === label ? "Copied" : "Copy"));
}
