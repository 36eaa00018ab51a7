// The page: asks for a snapshot once a second while somebody looks, and draws it.

import * as api from "./api.js";
import { h, patch } from "./dom.js";
import { eventLog, isFollowing, startEvents, stopEvents } from "./events.js";
import { card } from "./feed.js";
import { keyOf, remember } from "./history.js";
import { pairing } from "./pair.js";
import { syncScreens } from "./preview.js";
import { recordingList, refresh } from "./recordings.js";
import { count, span, stateOf } from "./words.js";

const EVERY_MS = 1000;

// How long a button that has to be pressed twice waits for the second time.
const ARMED_MS = 4000;

const root = document.getElementById("app");
let histories = new Map();
let status = null;
let lists = null;
let lost = null;
let notice = null;
const ui = { open: null, place: 0, tls: true, encoder: "OBS", shown: false, qr: null, copied: null, armed: null, canChange: false, invite: null };

const act = {
  api,
  open(name) {
    Object.assign(ui, { open: name, place: 0, shown: false, qr: null, copied: null });
    draw();
  },
  setup(change) {
    Object.assign(ui, change);
    draw();
  },
  arm(what) {
    ui.armed = what;
    setTimeout(() => {
      if (ui.armed === what) act.setup({ armed: null });
    }, ARMED_MS);
    draw();
  },
  async run(call) {
    notice = null;
    ui.armed = null;
    // A picture of a key that may be no more.
    ui.qr = null;
    try {
      await call();
      await poll();
    } catch (error) {
      notice = error.message;
      if (error.status === 401) await checkToken();
    }
    draw();
  },
  async qr(name, place, form, tls) {
    try {
      const picture = await api.qr(name, place, form, tls);
      // Another feed or place may have been opened meanwhile.
      if (ui.open === name && ui.place === place) ui.qr = { form, picture };
    } catch (error) {
      notice = error.message;
    }
    draw();
  },
  async copy(label, text) {
    ui.copied = (await copied(text)) ? label : null;
    if (!ui.copied) notice = "This browser does not let the page copy: show the key and copy it by hand.";
    setTimeout(() => act.setup({ copied: null }), 2000);
    draw();
  },
};

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Over plain HTTP on a LAN there is no clipboard but this one.
    const area = h("textarea", { class: "offscreen", readonly: true });
    const place = document.createElement("div");
    document.body.append(place);
    patch(place, [area]);
    place.firstChild.value = text;
    place.firstChild.select();
    const done = document.execCommand("copy");
    place.remove();
    return done;
  }
}

function draw() {
  document.title = title();
  patch(root, page());
  syncScreens(root);
}

function title() {
  if (lost) return "! firstmile: no answer";
  const bad = status ? status.feeds.filter((feed) => feed.problems.some((problem) => !problem.advice)).length : 0;
  return bad > 0 ? `! ${count(bad, "feed", "feeds")} · firstmile` : "firstmile";
}

function page() {
  const needsToken = lost?.status === 401;
  if (!status) {
    const waiting = h("p", { class: "quiet" }, lost && !needsToken ? "No answer." : "Loading …");
    return [notices(), needsToken ? tokenForm("This page needs the token.") : waiting];
  }
  ui.canChange = api.hasToken() && status.role !== "relay";
  return [
    h("header", { key: "top", class: "top" },
      h("h1", {}, "firstmile ", h("small", {}, status.role)),
      h("p", { class: "sum" }, summary(status.feeds)),
      h("p", { class: "quiet" }, `up ${span(status.uptime_s)} · version ${status.version}`),
      api.isLoggedIn() && h("button", { onclick: () => act.run(leave) }, "Log out")),
    notices(),
    needsToken ? tokenForm(api.hasPassword() ? "You are logged out: elsewhere, after a day, or because the program was started anew."
      : "The token is wrong: the program may have been started anew.")
      : !api.hasToken() && tokenForm("You can look. To see keys and change something, this page needs the token."),
    h("main", { key: "wall", class: lost ? "wall stale" : "wall" },
      status.feeds.map((feed) => card(feed, histories.get(keyOf(feed)) ?? [], status.links, ui, act)),
      status.feeds.length === 0 && h("p", { key: "none", class: "quiet" },
        status.role === "relay" ? "No feeds: studios bring them." : "No feeds yet: add one.")),
    h("div", { key: "below", class: "below" },
      ui.canChange && addForm(),
      pairing(status, lists, ui, act)),
    ui.canChange && recordingList(status, ui, act),
    eventLog(draw, act.run),
  ].filter(Boolean);
}

function summary(feeds) {
  const states = feeds.map(stateOf);
  const words = ["live", "weak", "held", "stalled", "reconnecting", "waiting"];
  const parts = words.map((word) => [word, states.filter((state) => state === word).length]).filter(([, n]) => n > 0);
  return parts.map(([word, n]) => h("span", { class: word }, `${n} ${word} `));
}

function notices() {
  const alarms = (status?.alarms ?? []).map((alarm) => h("p", { class: "alarm" }, alarm));
  const silent = lost && lost.status !== 401 && h("p", { class: "alarm" },
    status ? `No answer from this program: what you see is old. (${lost.message})` : `No answer from this program. (${lost.message})`);
  const told = notice && h("p", { class: "alarm" }, notice, " ", h("button", { onclick: () => { notice = null; draw(); } }, "OK"));
  return h("div", { key: "notices", role: "alert" }, silent, told, alarms);
}

function tokenForm(why) {
  const password = api.hasPassword();
  return h("form", { key: "token", class: "token", onsubmit: enterToken },
    h("label", { for: "token" }, password ? why.replace("the token", "the password") : why),
    h("p", { class: "quiet" }, password
      ? "The password is http_password in the program's configuration; the token of run.json does as well."
      : "Open the address that the program printed at its start, or paste the token of run.json in its data directory."),
    h("div", { class: "actions" },
      h("input", { id: "token", name: "token", type: "password", autocomplete: password ? "current-password" : "off", placeholder: password ? "Password" : "Token" }),
      h("button", { class: "main" }, password ? "Log in" : "Use it")));
}

async function enterToken(event) {
  event.preventDefault();
  const input = event.target.elements.token;
  const text = input.value;
  input.value = "";
  notice = null;
  try {
    if (!api.hasPassword() || !(await api.logIn(text))) {
      api.setToken(text);
      await checkToken();
    }
  } catch (error) {
    notice = error.message;
  }
  await poll();
}

/** What this page has seen is forgotten with it. */
async function leave() {
  await api.logOut();
  location.reload();
}

/** A wrong token still lets one look, so it is tried where it is needed. */
async function checkToken() {
  if (!api.hasToken()) return;
  try {
    await api.refresh();
    if (api.isOwner()) return;
    const had = api.dropToken();
    await api.refresh();
    if (had && !api.isOwner()) {
      notice = api.hasPassword()
        ? "That is not the password, and not this program's token."
        : "That token is not this program's: it has another one at each start.";
    }
  } catch {
    // No answer: what is asked next says so.
  }
}

function addForm() {
  return h("form", { class: "add", onsubmit: addFeed },
    h("label", { for: "feed" }, "Add a feed"),
    h("div", { class: "actions" },
      h("input", { id: "feed", name: "feed", placeholder: "camera-2", maxlength: 32, autocomplete: "off" }),
      h("button", {}, "Add")));
}

function addFeed(event) {
  event.preventDefault();
  const input = event.target.elements.feed;
  const name = input.value.trim();
  act.run(async () => {
    await api.addFeed(name);
    input.value = "";
    Object.assign(ui, { open: name, place: 0, shown: false, qr: null });
  });
}

async function poll() {
  try {
    const next = await api.status();
    // A program that was started anew has another token, and shows masked keys to the old one.
    if (status && next.uptime_s < status.uptime_s) await checkToken();
    status = next;
    histories = remember(histories, status, performance.now());
    lists = api.hasToken() ? await api.lists(status.role) : null;
    lost = null;
    await refresh(api, status, performance.now());
    if (!isFollowing() && !document.hidden) startEvents(draw);
  } catch (error) {
    lost = error;
  }
  draw();
}

let timer = null;

async function loop() {
  timer = null;
  await poll();
  if (!document.hidden && timer === null) timer = setTimeout(loop, EVERY_MS);
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  timer = null;
  if (document.hidden) stopEvents();
  else loop();
});

/** The same page may be open already when its address is opened with a token. */
async function takeToken() {
  api.takeToken();
  await api.refresh().catch(() => {});
  await checkToken();
}

window.addEventListener("hashchange", async () => {
  await takeToken();
  await poll();
});

await takeToken();
loop();
