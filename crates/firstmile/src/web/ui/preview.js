// The cards' screens: picture, sound level, and who of them may play in full.

import { credentials, token } from "./api.js";
import { h, plain } from "./dom.js";
import { Player, canPlay } from "./player.js";

// Most that play at full rate; the others show their keyframes. It is less where the browser is slow, and
// after a while one more again: longer each time that was too much.
const MOST_PLAYING = 4;
const AGAIN_MS = 30_000;
const LONGEST_AGAIN_MS = 600_000;
// A browser that shows fewer than this of the pictures it gets, for so many seconds, is slow.
const ENOUGH = 2 / 3;
const SLOW_S = 3;
const SETTLE_MS = 5_000;
const TICK_MS = 100;
// Below this the meter is empty.
const SILENT_DB = -60;
const LEVEL_STALE_MS = 500;
const RETRY_MS = [1_000, 2_000, 5_000];

/** The place of a feed's screen on its card; what is in it is done here. */
export const screen = (feed) => h("div", { key: "screen", class: "screen", own: true, "data-feed": feed.name });

const previews = new Map();
let focused = null;
let sounding = null;
let most = MOST_PLAYING;
let isGone = false;
let timer = null;

const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const preview = previews.get(target);
    if (preview) preview.isSeen = isIntersecting;
  }
  plan();
}, { rootMargin: "50px" });

/** Takes note of the screens that the page has now. */
export function syncScreens(root) {
  for (const [box, preview] of previews) {
    if (box.isConnected) continue;
    observer.unobserve(box);
    preview.want(null);
    previews.delete(box);
  }
  for (const box of root.querySelectorAll(".screen")) {
    if (previews.has(box)) continue;
    previews.set(box, new Preview(box));
    observer.observe(box);
  }
  if (previews.size > 0 && timer === null) timer = setInterval(tick, TICK_MS);
  if (previews.size === 0) timer = clearInterval(timer) ?? null;
  plan();
}

/** Says of each screen how much it may have. */
function plan() {
  const all = [...previews.values()];
  const isShown = (preview) => !isGone && (document.hidden ? preview.name === sounding : preview.isSeen);
  let left = most;
  if (all.some((preview) => isShown(preview) && preview.name === focused)) left -= 1;
  for (const preview of all) {
    const isFocused = preview.name === focused;
    let mode = null;
    if (isShown(preview)) {
      mode = isFocused ? "full" : left > 0 ? "picture" : "stills";
      if (!isFocused && !preview.isUseless) left -= 1;
    }
    preview.want(mode);
  }
}

function focus(name) {
  focused = focused === name ? null : name;
  if (sounding !== focused) sounding = null;
  for (const preview of previews.values()) preview.drawFocus();
  plan();
}

function sound(name) {
  sounding = sounding === name ? null : name;
  if (sounding !== null) focused = name;
  for (const preview of previews.values()) preview.drawFocus();
  plan();
}

let ticks = 0;
let slow = { seconds: 0, since: performance.now() };
let again = { at: 0, pause: AGAIN_MS };

function tick() {
  for (const preview of previews.values()) preview.tick();
  ticks += 1;
  if (ticks % (1000 / TICK_MS) === 0) measure();
}

/** Once a second: lets fewer play where the browser does not show what it gets. */
function measure() {
  let [got, shown, playing] = [0, 0, 0];
  for (const preview of previews.values()) {
    const rates = preview.second();
    if (!rates) continue;
    [got, shown, playing] = [got + rates.got, shown + rates.shown, playing + 1];
  }
  const isSettled = performance.now() - slow.since > SETTLE_MS && !document.hidden;
  const isSlow = isSettled && playing > 1 && got > 10 && shown < got * ENOUGH;
  slow.seconds = isSlow ? slow.seconds + 1 : 0;
  const now = performance.now();
  if (slow.seconds >= SLOW_S) {
    most = playing - 1;
    again = { at: now + again.pause, pause: Math.min(2 * again.pause, LONGEST_AGAIN_MS) };
  } else if (most < MOST_PLAYING && isSettled && !isSlow && now > again.at) {
    most += 1;
    again.at = now + again.pause;
  } else {
    return;
  }
  slow = { seconds: 0, since: now };
  plan();
}

window.addEventListener("pagehide", () => {
  // A page that is left is kept, with its sockets, for the way back.
  isGone = true;
  plan();
});
window.addEventListener("pageshow", () => {
  isGone = false;
  plan();
});
document.addEventListener("visibilitychange", () => {
  slow = { seconds: 0, since: performance.now() };
  plan();
});

function element(tag, name, ...children) {
  const made = document.createElement(tag);
  made.className = name;
  made.append(...children);
  return made;
}

class Preview {
  constructor(box) {
    this.name = box.dataset.feed;
    this.box = box;
    // For those who look from outside.
    box.fmPreview = this;
    this.video = element("video", "");
    this.video.addEventListener("loadeddata", () => this.#say(""));
    this.video.muted = true;
    this.video.playsInline = true;
    this.video.disablePictureInPicture = true;
    this.words = element("p", "words");
    this.corner = element("p", "corner");
    this.stage = element("div", "stage", this.video, this.words, this.corner);
    this.stage.tabIndex = 0;
    this.stage.setAttribute("role", "button");
    this.stage.addEventListener("click", () => focus(this.name));
    this.stage.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      focus(this.name);
    });
    this.meter = element("div", "meter");
    this.meter.setAttribute("role", "meter");
    for (const [name, value] of [["label", "Sound level in dB"], ["valuemin", SILENT_DB], ["valuemax", 0]]) {
      this.meter.setAttribute(`aria-${name}`, value);
    }
    this.bars = [];
    this.button = element("button", "sound");
    this.button.addEventListener("click", () => sound(this.name));
    box.append(this.stage, element("div", "below-screen", this.meter, this.button));
    this.isSeen = false;
    this.wanted = null;
    this.asked = null;
    this.socket = null;
    this.player = null;
    this.generation = null;
    this.isUseless = false;
    this.retries = 0;
    this.dropped = 0;
    this.level = null;
    this.before = { received: 0, presented: 0 };
    this.shown = 0;
    this.drawFocus();
  }

  /** Shows this much from now on: "full", "picture", "stills"; null for nothing. */
  want(mode) {
    if (this.refused !== undefined && this.refused !== credentials()) this.refused = undefined;
    if (mode === this.wanted && (this.socket || this.retry || this.refused || !mode)) return;
    this.wanted = mode;
    if (!mode) this.#close();
    else if (this.socket) this.#ask();
    else if (!this.retry && this.refused === undefined) this.#open();
  }

  drawFocus() {
    const isFocused = this.name === focused;
    this.box.classList.toggle("focused", isFocused);
    this.stage.setAttribute("aria-label", isFocused ? `Watch ${this.name} smaller` : `Watch ${this.name} in full, with its sound`);
    const isOn = this.name === sounding;
    this.video.muted = !isOn;
    this.button.textContent = isOn ? "Sound off" : "Sound on";
    this.button.setAttribute("aria-pressed", String(isOn));
  }

  tick() {
    this.player?.tick();
    const shown = this.player?.stats.presented ?? 0;
    if (shown !== this.shown && shown > 0) this.#say("");
    this.shown = shown;
    if (this.level && performance.now() - this.level.at > LEVEL_STALE_MS) this.#draw(null);
  }

  /** Pictures of the last second, of one that plays. */
  second() {
    const stats = this.player?.stats;
    if (!stats) return null;
    const rates = { got: stats.received - this.before.received, shown: stats.presented - this.before.presented };
    this.before = { received: stats.received, presented: stats.presented };
    const recent = stats.delays.slice(-Math.max(1, rates.shown)).sort((a, b) => a - b);
    const isStill = this.player.mode === "stills";
    const behind = rates.shown > 0 && recent.length > 0 ? `${(recent[recent.length >> 1] / 1000).toFixed(1)} s behind` : "";
    this.corner.textContent = isStill ? "keyframes only" : behind;
    this.meter.setAttribute("aria-valuenow", this.level ? Math.max(SILENT_DB, ...this.level.rms) : SILENT_DB);
    // Some browsers do not tell what they show.
    return isStill || !this.video.requestVideoFrameCallback ? null : rates;
  }

  #say(said) {
    const words = plain(said);
    if (this.words.textContent !== words) this.words.textContent = words;
  }

  #open() {
    this.#say("Connecting …");
    const path = `/api/v1/feeds/${encodeURIComponent(this.name)}/preview`;
    const socket = new WebSocket(new URL(path, location.href.replace(/^http/, "ws")));
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => this.#ask();
    socket.onmessage = ({ data }) => {
      if (this.socket !== socket) return;
      if (typeof data === "string") this.#told(JSON.parse(data));
      else this.#segment(data);
    };
    socket.onclose = ({ code, reason }) => {
      if (this.socket === socket) this.#lost(code, reason);
    };
  }

  #close() {
    clearTimeout(this.retry);
    this.retry = null;
    const { socket } = this;
    this.socket = null;
    this.asked = null;
    socket?.close(1000);
    this.#stop();
    this.#draw(null);
  }

  #lost(code, reason) {
    this.#close();
    if (code === 4401) this.refused = credentials();
    this.#say(code >= 4400 && reason ? `No preview: ${reason}.` : "The preview was lost, and is called again …");
    if (!this.wanted || this.refused !== undefined) return;
    const delay = RETRY_MS[Math.min(this.retries, RETRY_MS.length - 1)];
    this.retries += 1;
    this.retry = setTimeout(() => {
      this.retry = null;
      if (this.wanted) this.#open();
    }, delay);
  }

  /** Tells the node how much is wanted. */
  #ask() {
    const mode = this.isUseless ? "levels" : this.wanted;
    if (this.socket?.readyState !== WebSocket.OPEN || mode === this.asked) return;
    this.socket.send(JSON.stringify(this.asked === null ? { token: token() ?? "", mode } : { mode }));
    this.asked = mode;
    this.generation = null;
  }

  #told(message) {
    this.retries = 0;
    if (message.type === "feed") this.#feed(message);
    else if (message.type === "waiting") this.#say("Waiting for the next keyframe …");
    else if (message.type === "behind") this.dropped = message.dropped;
    else if (message.type === "level") this.#draw(message);
    else if (message.type === "mute") {
      this.#draw(null);
      this.meter.title = `No level: ${message.why}.`;
    }
  }

  #feed({ mode, generation, video, audio }) {
    // What was on its way when another mode was asked for.
    if (mode !== this.asked) return;
    this.isUseless = video !== null && !canPlay(video.mime);
    if (this.isUseless) {
      this.#stop();
      const codec = /codecs="(.*)"/.exec(video.mime ?? "")?.[1];
      const why = video.why ?? `this browser does not play it${codec ? ` (${codec})` : ""}`;
      this.#say(`${video.name} cannot be previewed: ${why}.`);
      this.#ask();
      return plan();
    }
    if (mode === "levels") return this.#ask();
    const tracks = {};
    if (video) tracks.video = video.mime;
    if (mode === "full" && audio && canPlay(audio.mime)) tracks.audio = audio.mime;
    this.generation = generation;
    if (Object.keys(tracks).length === 0) {
      this.#stop();
      return this.#say(audio ? "Sound without a picture." : "Waiting for the feed …");
    }
    if (!video) this.#say("Sound without a picture.");
    if (this.player?.fits(mode, tracks)) return this.player.retype(tracks);
    this.#stop();
    this.before = { received: 0, presented: 0 };
    this.player = new Player(this.video, mode, tracks, (why) => {
      this.#close();
      this.#lost(0, why);
    });
  }

  #segment(data) {
    const head = new DataView(data);
    if (!this.player || head.getUint32(4) !== this.generation) return;
    const kind = head.getUint8(0) === 1 ? "video" : "audio";
    const flags = head.getUint8(1);
    const about = { isStart: (flags & 1) !== 0, isInit: (flags & 2) !== 0, shown: head.getFloat64(8), arrived: head.getFloat64(16) };
    this.player.push(kind, about, new Uint8Array(data, 24));
  }

  #stop() {
    this.player?.stop();
    this.player = null;
    this.corner.textContent = "";
  }

  #draw(level) {
    this.level = level && { ...level, at: performance.now() };
    const channels = level?.rms.length ?? this.bars.length;
    if (channels !== this.bars.length) {
      this.bars = Array.from({ length: channels }, () => {
        const [rms, peak] = [element("i", "rms"), element("i", "peak")];
        return { row: element("div", "bar", rms, peak), rms, peak };
      });
      this.meter.replaceChildren(...this.bars.map((bar) => bar.row));
      this.meter.title = "";
    }
    const part = (db) => Math.min(1, Math.max(0, 1 - db / SILENT_DB));
    this.bars.forEach(({ row, rms, peak }, index) => {
      rms.style.clipPath = `inset(0 ${100 - 100 * (level ? part(level.rms[index]) : 0)}% 0 0)`;
      peak.style.transform = `translateX(${level ? 100 * part(level.peak[index]) : 0}%)`;
      row.classList.toggle("clips", Boolean(level) && level.peak[index] > -1);
    });
  }
}
