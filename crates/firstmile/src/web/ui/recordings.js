// The studio's recordings: what there is, how far it is, and what becomes of it.

import { h } from "./dom.js";
import { bytes, count, percent, span } from "./words.js";

// A page is for the last days; the rest is in `firstmile record list`.
const SHOWN = 50;

const EVERY_MS = 5000;

const WORDS = {
  recording: ["Recording", "it goes on"],
  filling: ["Filling up", "it has ended; what is missing still comes"],
  ended: ["Ended", "its file has all that was recorded, and is closed when the encoder has left"],
  whole: ["Complete", "its files are whole"],
};

let all = [];
let asked = -Infinity;

/** Asks for the list now and then; `now` in milliseconds. */
export async function refresh(api, status, now) {
  if (status.role === "relay" || !api.hasToken()) all = [];
  else if (now - asked >= EVERY_MS) {
    asked = now;
    all = await api.recordings().catch(() => all);
  }
}

export function recordingList(status, ui, act) {
  const newest = [...all].reverse();
  const on = status.feeds.filter((feed) => feed.recording?.on);
  const off = status.feeds.filter((feed) => !feed.recording?.on);
  return h("section", { key: "recordings", class: "recordings" },
    h("header", {},
      h("h2", {}, "Recordings"),
      off.length > 0 && h("button", { key: "all", onclick: () => switchAll(off, true, act) }, "Record all feeds"),
      on.length > 0 && h("button", { key: "none", onclick: () => switchAll(on, false, act) }, "Stop all")),
    newest.length === 0 && h("p", { class: "quiet" }, "None yet. Press Record at a feed."),
    newest.slice(0, SHOWN).map((recording) => row(recording, ui, act)),
    newest.length > SHOWN && h("p", { class: "quiet" }, `and ${newest.length - SHOWN} older: firstmile record list`));
}

function switchAll(feeds, on, act) {
  return act.run(async () => {
    for (const feed of feeds) await act.api.record(feed.name, on);
  });
}

function row(recording, ui, act) {
  const { publication: name, files } = recording;
  const [word, meaning] = WORDS[recording.state] ?? [recording.state, ""];
  const size = files.length > 0 ? files.reduce((sum, file) => sum + file.bytes, 0) : recording.bytes;
  const holes = files.reduce((sum, file) => sum + file.holes, 0);
  const began = new Date(recording.started_ms).toLocaleString();
  return h("div", { key: `recording ${name}`, class: `recorded is-${recording.state}` },
    h("b", {}, recording.feed),
    h("span", {}, began),
    h("span", {}, span(recording.length_ms / 1000)),
    h("span", {}, bytes(size)),
    h("span", { class: "word", title: meaning }, word),
    recording.missing > 0 && h("span", { key: "progress" },
      h("progress", { max: 1, value: recording.progress }), ` ${percent(recording.progress)}, ${recording.missing} still to come`),
    recording.gone > 0 && h("span", { key: "gone", class: "sick" },
      `${recording.gone} gone for good${holes > 0 ? ` in ${count(holes, "place", "places")}` : ""}`),
    h("span", { key: "buttons", class: "actions" },
      files.map((file, index) => h("button", { key: file.name, title: file.name, onclick: () => download(name, index + 1, act) },
        files.length === 1 ? "Download" : `Download ${index + 1}`)),
      recording.state !== "recording" && remove(name, ui, act)));
}

/** A browser that downloads a file sends no token: it gets a way that is good once. */
function download(name, number, act) {
  return act.run(async () => {
    const link = document.createElement("a");
    link.href = await act.api.ticket(name, number);
    link.download = "";
    document.body.append(link);
    link.click();
    link.remove();
  });
}

function remove(name, ui, act) {
  const what = `delete ${name}`;
  const isArmed = ui.armed === what;
  const call = async () => {
    await act.api.removeRecording(name);
    all = all.filter((recording) => recording.publication !== name);
  };
  return h("button", { key: "remove", class: isArmed ? "danger" : "", onclick: () => (isArmed ? act.run(call) : act.arm(what)) },
    isArmed ? "Really? The files go" : "Delete");
}
