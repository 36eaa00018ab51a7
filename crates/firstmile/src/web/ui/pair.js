// Pairing: a studio joins and leaves relays, a relay makes invites and cuts studios off.

import { h } from "./dom.js";
import { bytes, count, placeOf, wayOf } from "./words.js";

const STATES = { up: "connected", connecting: "not connected", racing: "silent, being called anew", refused: "refused" };
const STANDS = { connected: "connected", away: "away", removed: "cut off" };

const when = (seconds) => new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

/** `lists` is what needs the token: `relays`, or `studios` and `invites`; nothing without it. */
export function pairing(status, lists, ui, act) {
  const isRelay = status.role === "relay";
  if (!lists) return linkList(status);
  return isRelay ? [studioList(lists.studios, ui, act), inviteList(lists.invites, ui, act)] : relayList(lists.relays, ui, act);
}

/** What everybody may see. */
function linkList(status) {
  const none = status.role === "relay"
    ? "No studio has joined yet. Run the line that this relay printed at its start."
    : "No relay is joined: encoders have to reach this machine.";
  return h("section", { key: "links", class: "links" },
    h("h2", {}, status.role === "relay" ? "Studios" : "Relays"),
    status.links.length === 0 && h("p", { class: "quiet" }, none),
    status.links.map((link) => linkRow(`link ${link.peer}`, link.peer, link)));
}

function linkRow(key, name, link, ...more) {
  return h("div", { key, class: `link ${link.state}` },
    h("b", {}, name),
    h("span", { class: "word" }, STATES[link.state] ?? link.state),
    h("span", { class: "quiet" }, figures(link)),
    h("span", { class: "quiet" }, placeOf(link)),
    link.state !== "up" && link.last_error && h("span", { class: "quiet" }, link.last_error),
    more);
}

const figures = (link) => (link.state === "up"
  ? `${wayOf(link)} · ${bytes(link.bytes_in + link.bytes_out)} · ${link.address}`
  : link.address);

function relayList(relays, ui, act) {
  const join = (event) => {
    event.preventDefault();
    const input = event.target.elements.link;
    const link = input.value.trim();
    if (!link) return;
    act.run(async () => {
      await act.api.joinRelay(link);
      input.value = "";
    });
  };
  return h("section", { key: "relays", class: "links" },
    h("h2", {}, "Relays"),
    relays.length === 0 && h("p", { class: "quiet" }, "No relay is joined: encoders have to reach this machine."),
    relays.map((relay) => linkRow(`relay ${relay.key}`, relay.name, relay.link,
      armed(ui, act, `leave ${relay.key}`, "Leave", "Really? Its encoders are cut", () => act.api.leaveRelay(relay.key)))),
    h("form", { key: "join", class: "actions", onsubmit: join },
      h("input", { name: "link", type: "password", placeholder: "firstmile://…", "aria-label": "Join link", autocomplete: "off" }),
      h("button", {}, "Join")),
    h("p", { class: "quiet" }, "Paste the join link that the relay printed, or that its owner made for you."));
}

function studioList(studios, ui, act) {
  return h("section", { key: "studios", class: "links" },
    h("h2", {}, "Studios"),
    studios.length === 0 && h("p", { class: "quiet" }, "No studio has joined yet. Make a link for one."),
    studios.map((studio) => h("div", { key: `studio ${studio.key}`, class: `link ${studio.state === "connected" ? "up" : studio.state === "removed" ? "refused" : ""}` },
      h("b", {}, studio.name || "(no name)", h("small", { class: "quiet", title: studio.key }, ` ${studio.key.slice(0, 8)}`)),
      h("span", { class: "word" }, STANDS[studio.state] ?? studio.state),
      h("span", { class: "quiet" }, [
        studio.link && figures(studio.link),
        count(studio.feeds, "feed", "feeds"),
        studio.admitted_s && `since ${when(studio.admitted_s)}`,
        studio.cut_off_s && `cut off ${when(studio.cut_off_s)}`,
      ].filter(Boolean).join(" · ")),
      studio.state === "removed"
        ? h("button", { onclick: () => act.run(() => act.api.admit(studio.key, true)) }, "Let in again")
        : armed(ui, act, `cut ${studio.key}`, "Cut off", "Really? Its feeds go", () => act.api.admit(studio.key, false)))));
}

function inviteList(invites, ui, act) {
  const create = (event) => {
    event.preventDefault();
    const { uses, hours } = event.target.elements;
    const body = { expires_s: Math.round(Number(hours.value) * 3600) };
    if (uses.value) body.uses = Number(uses.value);
    act.run(async () => {
      const made = await act.api.invite(body);
      ui.invite = { link: made.join_link, picture: `data:image/svg+xml,${encodeURIComponent(made.qr)}`, shown: false };
    });
  };
  return h("section", { key: "invites", class: "links" },
    h("h2", {}, "Invites"),
    invites.map((invite) => h("div", { key: `invite ${invite.id}`, class: "link" },
      h("b", {}, invite.until_restart ? "The link of the start" : invite.id),
      h("span", { class: "quiet" }, [
        invite.uses_left === null ? "any number of studios" : `${count(invite.uses_left, "studio", "studios")} more`,
        `until ${when(invite.expires_s)}`,
        invite.until_restart && "or a restart",
      ].filter(Boolean).join(" · ")),
      armed(ui, act, `revoke ${invite.id}`, "Revoke", "Really?", () => act.api.revokeInvite(invite.id)))),
    h("form", { key: "new", class: "actions", onsubmit: create },
      h("label", {}, "Studios ", h("input", { name: "uses", type: "number", min: 1, placeholder: "any", value: 1 })),
      h("label", {}, "Hours ", h("input", { name: "hours", type: "number", min: 1, max: 8760, value: 24, required: true })),
      h("button", {}, "Make a link")),
    ui.invite && h("div", { key: "made", class: "made" },
      h("p", {}, "This link is shown only now. Who has it gets in."),
      h("div", { class: "actions" },
        h("button", { class: "main", onclick: () => act.copy("invite", ui.invite.link) }, ui.copied === "invite" ? "Copied" : "Copy the link"),
        h("button", { onclick: () => act.setup({ invite: { ...ui.invite, shown: !ui.invite.shown } }) }, ui.invite.shown ? "Hide it" : "Show it and its QR"),
        h("button", { onclick: () => act.setup({ invite: null }) }, "Done")),
      ui.invite.shown && h("p", {}, h("code", {}, ui.invite.link)),
      ui.invite.shown && h("figure", { class: "qr" }, h("img", { src: ui.invite.picture, alt: "QR code of the join link", width: 320, height: 320 }))));
}

/** A button that has to be pressed twice. */
function armed(ui, act, what, label, question, call) {
  const isArmed = ui.armed === what;
  return h("button", { class: isArmed ? "danger" : "", onclick: () => (isArmed ? act.run(call) : act.arm(what)) }, isArmed ? question : label);
}
