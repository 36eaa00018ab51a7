// One feed in a <video>: segments of fragmented MP4 go in, and it stays close behind their edge.

export const canPlay = (mime) => Boolean(mime) && (window.MediaSource?.isTypeSupported(mime) ?? false);

// How far behind the edge it plays, in seconds. Less makes browsers run dry, and late for it.
const LAG_WITH_SOUND = 0.25;
const LAG_OF_PICTURE = 0.3;
const MOST_LAG = 1;
// Further behind than this beyond its lag it jumps; below it, it plays somewhat faster, and slower
// where it is too near the edge.
const JUMP_S = 0.5;
// How long the first pictures may take until they are all there.
const START_MS = 1_000;
// Played media that is kept.
const KEEP_S = 8;
// Twice dry within this, and it stays further behind; this long without, and it comes nearer.
const DRY_MS = 10_000;
const ONE_PAUSE_MS = 2_000;
const CALM_MS = 20_000;
// The first seconds are the browser's own: all of it starts at once.
const SETTLE_MS = 3_000;
// What waits to be appended; the newest GOP is below 8 MB.
const MOST_WAITING = 16 << 20;
// A computer's clock that is off by more is another computer's.
const SAME_CLOCK_MS = 1_000;

export class Player {
  /** `tracks` are the types of `video` and `audio`, where there is one. */
  constructor(video, mode, tracks, onTrouble) {
    Object.assign(this, { video, mode, tracks, onTrouble });
    this.stats = { received: 0, presented: 0, seeks: 0, jumps: 0, dry: 0, delays: [] };
    this.lines = new Map();
    this.lag = tracks.audio ? LAG_WITH_SOUND : LAG_OF_PICTURE;
    this.leastLag = this.lag;
    this.edge = null;
    this.isStarted = false;
    this.isOver = false;
    this.isHurrying = false;
    this.isEarly = false;
    this.dryAt = [];
    this.lagAt = performance.now();
    this.seekAt = 0;
    // When each picture came to the node, by its time.
    this.arrivals = new Map();
    this.clock = Infinity;
    this.source = new MediaSource();
    for (const [kind, mime] of Object.entries(tracks)) this.lines.set(kind, { mime, first: mime, queue: [], waiting: 0, starts: [], buffer: null });
    this.source.addEventListener("sourceopen", () => this.#open(), { once: true });
    video.playbackRate = 1;
    video.src = URL.createObjectURL(this.source);
    this.onWaiting = () => this.#ranDry();
    video.addEventListener("waiting", this.onWaiting);
    this.onFrame = (now, frame) => this.#presented(frame);
    this.asked = video.requestVideoFrameCallback?.(this.onFrame);
  }

  /** Whether it can go on with these tracks. */
  fits(mode, tracks) {
    const same = Object.keys(tracks).join() === Object.keys(this.tracks).join();
    return !this.isOver && this.mode === mode && same;
  }

  /** What follows is coded like this. */
  retype(tracks) {
    for (const [kind, mime] of Object.entries(tracks)) {
      const line = this.lines.get(kind);
      if (line.mime !== mime) line.queue.push({ mime });
      line.mime = mime;
    }
  }

  /** Takes a segment; `shown` and `arrived` are milliseconds. */
  push(kind, { isInit, isStart, shown, arrived }, bytes) {
    const line = this.lines.get(kind);
    if (!line || this.isOver) return;
    line.queue.push(bytes);
    line.waiting += bytes.byteLength;
    if (line.waiting > MOST_WAITING) return this.#fail("the browser takes nothing");
    if (!isInit) {
      const now = performance.now();
      if (this.edge === null || shown > this.edge.shown) this.edge = { shown, at: now };
      this.clock = Math.min(this.clock, performance.timeOrigin + now - arrived);
      if (isStart) line.starts.push(shown / 1000);
      if (kind === "video") {
        this.stats.received += 1;
        this.arrivals.set(Math.round(shown), arrived);
        if (this.arrivals.size > 600) this.arrivals.delete(this.arrivals.keys().next().value);
      }
    }
    this.#append(line);
  }

  /** Stops, and leaves the element empty. */
  stop() {
    this.isOver = true;
    this.video.cancelVideoFrameCallback?.(this.asked);
    this.video.removeEventListener("waiting", this.onWaiting);
    URL.revokeObjectURL(this.video.src);
    this.video.removeAttribute("src");
    this.video.load();
  }

  /** Seconds between the newest media and what is shown. */
  behind() {
    return this.edge === null ? null : this.#edge() - this.video.currentTime;
  }

  /** Keeps the place; to be called some times a second. */
  tick() {
    if (this.isOver || this.source.readyState === "closed") return;
    for (const line of this.lines.values()) {
      this.#forget(line);
      this.#append(line);
    }
    if (this.mode === "stills" || this.edge === null) return;
    const { video } = this;
    const ranges = video.buffered;
    if (ranges.length === 0) return;
    const last = { start: ranges.start(ranges.length - 1), end: ranges.end(ranges.length - 1) };
    const aim = Math.min(Math.max(this.#edge() - this.lag, last.start), Math.max(last.start, last.end - 0.05));
    if (!this.isStarted) {
      // The newest GOP comes at once: its end is the place.
      if (last.end < this.edge.shown / 1000 && performance.now() - this.lagAt < START_MS) return;
      this.isStarted = true;
      this.startedAt = performance.now();
      video.currentTime = aim;
      video.play().catch(() => {});
      return;
    }
    const now = video.currentTime;
    // A hole is no reason to wait.
    for (let i = 0; i < ranges.length; i += 1) {
      const inside = now >= ranges.start(i) - 0.01 && now < ranges.end(i) - 0.03;
      if (inside) break;
      if (ranges.start(i) > now) {
        this.stats.jumps += 1;
        video.currentTime = ranges.start(i) + 0.001;
        return;
      }
    }
    const late = this.#edge() - now - this.lag;
    const isSeekDue = performance.now() - this.seekAt > 1_000;
    if (late > JUMP_S && aim > now + 0.2 && isSeekDue) {
      this.stats.seeks += 1;
      this.seekAt = performance.now();
      video.currentTime = aim;
    }
    this.isHurrying = late > (this.isHurrying ? 0.02 : 0.08);
    // Too near the edge it would run dry again and again.
    this.isEarly = late < (this.isEarly ? -0.02 : -0.08);
    const rate = late > 0.25 ? 1.1 : this.isHurrying ? 1.05 : this.isEarly ? 0.95 : 1;
    if (video.playbackRate !== rate) video.playbackRate = rate;
    if (performance.now() - this.lagAt > CALM_MS && this.lag > this.leastLag) this.#setLag(this.lag - 0.1);
  }

  #edge() {
    return (this.edge.shown + performance.now() - this.edge.at) / 1000;
  }

  #setLag(lag) {
    this.lag = Math.min(MOST_LAG, Math.max(this.leastLag, lag));
    this.lagAt = performance.now();
  }

  #ranDry() {
    if (!this.isStarted || this.mode === "stills") return;
    const now = performance.now();
    this.stats.dry += 1;
    // An encoder that pauses makes it run dry several times at once.
    if (now - this.startedAt < SETTLE_MS || now - (this.dryAt.at(-1) ?? 0) < ONE_PAUSE_MS) return;
    this.dryAt = [...this.dryAt.filter((at) => now - at < DRY_MS), now];
    if (this.dryAt.length < 2) return;
    this.dryAt = [now];
    this.#setLag(this.lag + 0.1);
  }

  #presented(frame) {
    if (this.isOver) return;
    this.stats.presented += 1;
    const arrived = this.arrivals.get(Math.round(frame.mediaTime * 1000));
    if (arrived !== undefined && this.mode !== "stills") {
      const clock = Math.abs(this.clock) > SAME_CLOCK_MS ? this.clock : 0;
      this.stats.delays.push(performance.timeOrigin + frame.expectedDisplayTime - arrived - clock);
      if (this.stats.delays.length > 900) this.stats.delays.shift();
    }
    this.asked = this.video.requestVideoFrameCallback(this.onFrame);
  }

  #open() {
    URL.revokeObjectURL(this.video.src);
    if (this.isOver) return;
    try {
      // All of them, before anything is appended.
      for (const line of this.lines.values()) {
        line.buffer = this.source.addSourceBuffer(line.first);
        line.buffer.addEventListener("updateend", () => this.#appended(line));
        line.buffer.addEventListener("error", () => this.#fail("the browser cannot read it"));
      }
    } catch (error) {
      return this.#fail(error.message);
    }
    for (const line of this.lines.values()) this.#append(line);
  }

  #append(line) {
    const { buffer, queue } = line;
    if (this.isOver || !buffer || buffer.updating || queue.length === 0) return;
    try {
      while (queue.length > 0 && queue[0].mime) buffer.changeType(queue.shift().mime);
      const next = queue.findIndex((item) => item.mime);
      const parts = queue.splice(0, next < 0 ? queue.length : next);
      if (parts.length === 0) return;
      const size = parts.reduce((sum, part) => sum + part.byteLength, 0);
      line.waiting -= size;
      const joined = parts.length === 1 ? parts[0] : new Uint8Array(size);
      if (parts.length > 1) parts.reduce((at, part) => (joined.set(part, at), at + part.byteLength), 0);
      buffer.appendBuffer(joined);
    } catch (error) {
      this.#fail(error.message);
    }
  }

  #appended(line) {
    if (this.isOver) return;
    if (line.queue.length > 0) return this.#append(line);
    if (this.mode !== "stills") return this.isStarted || this.tick();
    // The end makes decoders give away the picture that they have.
    if (this.source.readyState !== "open" || this.edge === null) return;
    if ([...this.lines.values()].some((other) => other.buffer.updating)) return;
    this.source.endOfStream();
    this.video.currentTime = this.edge.shown / 1000 + 0.001;
  }

  #forget(line) {
    const { buffer } = line;
    if (!buffer || buffer.updating || buffer.buffered.length === 0) return;
    const old = this.video.currentTime - KEEP_S;
    // Pictures go with the keyframe before them, those that are still to be shown too.
    const count = line.starts.findIndex((at) => at > old);
    const first = (count < 0 ? line.starts.length : count) - 1;
    if (first > 0) line.starts.splice(0, first);
    const until = line.starts.length > 0 ? Math.min(old, line.starts[0] - 0.001) : old;
    if (buffer.buffered.start(0) < until - 2) buffer.remove(0, until);
  }

  #fail(why) {
    if (this.isOver) return;
    this.isOver = true;
    this.onTrouble(why);
  }
}
