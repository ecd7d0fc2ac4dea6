// Live captions from a gateway that speaks `stt.v1`: what is said is heard once, over as many connections, and sessions
// of the gateway, as it takes. One file without dependencies; docs/javascript-client.md is its manual.
//
//   const client = new CaptionsClient({
//     url: address,                                 // of /ws/transcribe
//     start: { audio: { encoding: "LINEAR16", sample_rate_hertz: 16000 }, language_codes: ["en-US"] },
//     on: {
//       state: (state, detail) => {},               // "connecting", "live", "reconnecting", "stopped", "failed"
//       interim: ({ text, start_ms }) => {},        // provisional: replaces the interim before it
//       final: ({ text, start_ms, end_ms }) => {},  // never changes; the interim is over
//       gap: ({ start_ms, end_ms, reason }) => {},  // text is missing here: say so to the reader
//     },
//   });
//   client.send(chunk);                             // at once, even before "live"
//   await client.stop();                            // no more audio: the last finals come, then "stopped"
//
// A position is bytes of audio since the client was made, gaps included. All times are milliseconds since then.

const PROTOCOL = "stt.v1";
const BYTES_PER_SAMPLE = { LINEAR16: 2, MULAW: 1, ALAW: 1 };
const KEEP_SECONDS = 120; // of audio, until the gateway has told its own limit
const FRAME_BYTES = 32_768; // no frame is longer, whatever was sent at once
const CLOSE_LEFT = 1000; // the gateway ends the session
const CLOSE_REPLACED = 4000; // the gateway keeps the session
const COUNTS = ["audio_ms", "billed_ms", "finals", "gap_ms", "upstream_streams", "resumes", "replayed_ms"]; // of `stopped`
const ROUNDING_MS = 2; // times are whole milliseconds, sums of them are less exact

/** In milliseconds. */
const TIMING = {
  retry: 100, // the first wait before another try, at most; doubled with each that fails
  retryCap: 5_000,
  healthy: 10_000, // a connection that has lived so long was a good one: the next wait is a first one
  answer: 10_000, // for a connection to be open and answered
  silent: 10_000, // something was sent, and nothing at all came back: the connection is dead
  throttled: 30_000, // the same, while the gateway has said that it is behind
  keepalive: 15_000, // well under the gateway's idle timeout
};

/** In milliseconds: a budget that is renewed later than this is the end. Nobody waits for next month. */
const BUDGET_WAIT = 60_000;

/** Close codes that say the same as an `error` that is not `retryable`. */
const FOR_GOOD = new Set([4400, 4401, 4403]);

/** The gateway does not have the session any more: a new one takes over. */
const GONE = new Set(["session_unknown", "session_ended", "resume_window_expired"]);

export class CaptionsClient {
  #url;
  #start;
  #token;
  #overflow;
  #on;
  #WebSocket;
  #timing;
  #audio; // its format
  #outbox;
  #waiting = []; // { bytes, done }: what has no room yet, in order, while `overflow` is "wait"
  #held = false;
  #state;
  #link = null; // the connection in use
  #next = null; // one that is not answered yet
  #rivals = false; // attempts of ours that came to nothing may be heard by the gateway all the same, and late
  #dialling = null; // names the attempt under way, from the token to the answer
  #retry; // the timer of the next attempt
  #failures = 0; // in a row
  #session; // the gateway's, as it is known here
  #totals = Object.fromEntries(COUNTS.map((name) => [name, 0])); // of the sessions before
  #gaps = []; // those the reader was told of, and that a new session may tell again
  #events = 0;
  #finalizes = 0;
  #stopping = false;
  #stopSent = false; // on this connection
  #over = false;
  #end; // what `stop` resolves to, and
  #ended; // how
  #keepalive;
  #online = () => this.networkChanged();

  /**
   * Connects at once.
   *
   * `start`: the fields of the protocol's `start`.
   * `token`: what the gateway asks for, or a function that gets one (it may be async), called for each connection.
   * `overflow`: what happens to audio that cannot be kept; "gap" for a microphone, "wait" for a file.
   */
  constructor({ url, start, token, overflow = "gap", on = {}, WebSocket = globalThis.WebSocket, timing = {} }) {
    this.#url = url;
    this.#start = start;
    this.#token = token;
    this.#overflow = overflow;
    this.#on = on;
    this.#WebSocket = WebSocket;
    this.#timing = { ...TIMING, ...timing };
    this.#audio = new AudioFormat(start.audio);
    this.#outbox = new Outbox(this.#audio.frame);
    this.#session = this.#newSession(0, 1);
    this.#end = new Promise((resolve) => (this.#ended = resolve));
    this.#keepalive = setInterval(() => this.#sayAlive(), this.#timing.keepalive);
    globalThis.addEventListener?.("online", this.#online);
    this.#enter("connecting", {});
    this.#dial();
  }

  get state() {
    return this.#state;
  }

  /** Bytes of audio that were taken, or skipped. */
  get position() {
    return this.#outbox.cursor;
  }

  /** Bytes before here are final. */
  get settled() {
    return this.#outbox.settled;
  }

  /** Bytes of audio that are kept, to be sent (again). */
  get kept() {
    return this.#outbox.kept;
  }

  /**
   * The next audio: an ArrayBuffer or a view of one, of any size; samples may be split between calls.
   *
   * It is copied once it is taken: with `overflow` "gap" at once, or it is skipped; with "wait" when the promise
   * resolves. Resolves to false where the client is over.
   */
  async send(audio) {
    if (this.#over || this.#stopping) return false;
    const bytes = asBytes(audio);
    if (this.#overflow === "gap") {
      if (bytes.length) this.#takeOrSkip(bytes);
      this.#pump();
      return true;
    }
    const taken = new Promise((done) => this.#waiting.push({ bytes, done }));
    this.#pump();
    return taken;
  }

  /** So many bytes of audio were not sent: "muted", "interrupted" or "overflow". Told with what follows. */
  gap(bytes, reason = "muted") {
    if (bytes > 0) this.#put(() => this.#outbox.gap(bytes, reason));
  }

  /** Makes everything sent so far final now; the answer is `finalized` with this id. */
  finalize(id = null) {
    this.#put(() => this.#outbox.finalize(++this.#finalizes, id));
  }

  /** No more audio. Resolves to `stopped` once everything is final; to null where it was closed, or has failed. */
  stop() {
    this.#stopping = true;
    this.#pump();
    return this.#end;
  }

  /** Leaves at once, without the text that is still to come. */
  close() {
    this.#finish("stopped", null, null, CLOSE_LEFT);
  }

  /** The device is on another network: the connection in use may be dead, and goes on until another one is there. */
  networkChanged() {
    if (!this.#over) this.#dial();
  }

  // What goes out ------------------------------------------------------------------------------------

  get #room() {
    return this.#session.window - this.#outbox.kept;
  }

  /** Once audio is skipped, it is until there is room for a while: one gap is better than many. */
  #takeOrSkip(bytes) {
    let size = this.#held ? 0 : Math.max(0, Math.min(bytes.length, this.#room));
    if (size < bytes.length) size = Math.max(0, size - ((this.#outbox.cursor + size) % this.#audio.frame));
    this.#outbox.audio(bytes.subarray(0, size));
    if (size < bytes.length) this.#outbox.gap(bytes.length - size, "overflow");
    this.#hold(size < bytes.length);
  }

  /** In its place: after the audio that waits. */
  #put(put) {
    if (this.#over || this.#stopping) return;
    this.#waiting.push({ bytes: new Uint8Array(), done: (taken) => taken && put() });
    this.#pump();
  }

  #takeWaiting() {
    while (this.#waiting.length) {
      const [head] = this.#waiting;
      const size = Math.min(head.bytes.length, Math.max(0, this.#room));
      this.#outbox.audio(head.bytes.subarray(0, size));
      head.bytes = head.bytes.subarray(size);
      if (head.bytes.length) break;
      this.#waiting.shift().done(true);
    }
    if (this.#overflow === "wait") this.#hold(this.#waiting.length > 0);
    else if (this.#room >= Math.min(this.#audio.rate, this.#session.window / 2)) this.#hold(false);
    this.#outbox.closed = this.#stopping && !this.#waiting.length;
  }

  #pump() {
    if (this.#over) return;
    this.#takeWaiting();
    if (!this.#link) return;
    const { window, frameLimit } = this.#session;
    for (let frame; (frame = this.#outbox.next(window, frameLimit)); ) this.#link.send(frame);
    if (!this.#outbox.isDone || this.#stopSent) return;
    this.#stopSent = true;
    this.#link.send({ type: "stop" });
  }

  #hold(held) {
    if (held === this.#held) return;
    this.#held = held;
    this.#emit("held", held);
  }

  #sayAlive() {
    if (this.#link?.isQuiet(this.#timing.keepalive)) this.#link.send({ type: "keepalive" });
  }

  // What comes in ------------------------------------------------------------------------------------

  #hear(message) {
    if (message.event <= this.#session.lastEvent) return; // said again after a resume
    if (message.event) this.#session.lastEvent = message.event;
    if (message.type === "stopped") return this.#hearStopped(message);
    const told = this.#understand(message);
    if (told) this.#emit(told.type, this.#onOneClock(told));
    this.#pump();
  }

  /** Returns what the reader is told; null for nothing. */
  #understand(message) {
    const session = this.#session;
    switch (message.type) {
      case "ack":
        session.window = message.window;
        session.received = message.received;
        this.#outbox.settle(session.base + message.final);
        return { ...message, received: session.base + message.received, final: session.base + message.final };
      case "final":
        session.finals += 1;
        session.finalEnd = message.end_ms;
        return message;
      case "gap":
        return this.#untold(message);
      case "finalized":
        return this.#outbox.answered(message);
      case "throttle":
        session.throttled = message.state === "on";
        this.#link.patience = this.#patience;
        return message;
      case "warning":
        session.reachesLimit ||= message.code === "session_limit";
        return message;
      case "go_away":
        if (!this.#dialling) this.#dial();
        return message;
    }
    return message;
  }

  /** What of a gap the reader does not know yet: a new session is told again of those that the one before had heard. */
  #untold(gap) {
    const shift = this.#session.shift;
    let [start, end] = [gap.start_ms + shift, gap.end_ms + shift];
    for (const told of this.#gaps) if (told.start - ROUNDING_MS <= start && start < told.end) start = told.end;
    if (end - start <= ROUNDING_MS && start > gap.start_ms + shift) return null;
    this.#gaps.push({ start, end });
    return { ...gap, start_ms: start - shift };
  }

  /** Times since the client was made, and event numbers that go on, whichever session it is. */
  #onOneClock(message) {
    const told = shifted(message, this.#session.shift);
    return message.event ? { ...told, event: ++this.#events } : told;
  }

  /** All is final, or a session has reached its longest time, and another one has to hear the rest. */
  #hearStopped(message) {
    const heard = message.audio_ms + message.gap_ms;
    const all = this.#audio.ms(this.#outbox.cursor - this.#session.base);
    const asked = this.#outbox.closed && !(heard + ROUNDING_MS < all);
    const { voice_activity_timeout: timeout } = this.#start;
    if (!asked && (!timeout || this.#session.reachesLimit)) return this.#goOnAfter(message);
    this.#count(message);
    const stopped = { ...message, ...this.#totals, event: ++this.#events, sessions: this.#session.number };
    return this.#finish("stopped", stopped, stopped, CLOSE_LEFT);
  }

  #goOnAfter(stopped) {
    const { base, received } = this.#session;
    const heard = Math.max(received, this.#audio.bytes(stopped.audio_ms + stopped.gap_ms));
    this.#beginAnew(base + heard, stopped);
    this.#link.drop(CLOSE_LEFT);
    this.#lost(failure("session_limit", "the gateway has ended the session: another one goes on", true));
  }

  // Sessions of the gateway --------------------------------------------------------------------------

  /** From byte `base` on. */
  #newSession(base, number) {
    return {
      base,
      number,
      shift: Math.ceil(this.#audio.ms(base)),
      window: this.#session?.window ?? KEEP_SECONDS * this.#audio.rate,
      frameLimit: FRAME_BYTES,
      id: null,
      token: null, // the newest
      tokenBefore: null,
      lastEvent: 0,
      received: 0,
      finals: 0,
      finalEnd: 0,
      resumes: 0,
      reachesLimit: false,
      throttled: false,
    };
  }

  /** The gateway has lost the session, or ended it (`stopped`): what is not final goes to a new one. */
  #beginAnew(from = 0, stopped = null) {
    const { base, number, finalEnd } = this.#session;
    const end = Math.max(from, this.#outbox.settled, base + this.#audio.bytes(finalEnd));
    const next = this.#audio.wholeSamples(Math.min(end, this.#outbox.cursor));
    this.#count(stopped ?? this.#knownOfLost(next));
    this.#session = this.#newSession(next, number + 1);
    this.#rivals = false;
    this.#gaps = this.#gaps.filter((gap) => gap.end > this.#session.shift);
    this.#outbox.restart(next);
  }

  /** In the shape of `stopped`, of a session that never said it. What it cost upstream is not known. */
  #knownOfLost(end) {
    const { base, shift, finals, resumes } = this.#session;
    const until = this.#audio.ms(end);
    const missing = this.#gaps.map((gap) => Math.max(0, Math.min(gap.end, until) - Math.max(gap.start, shift)));
    const gap_ms = Math.round(missing.reduce((sum, ms) => sum + ms, 0));
    return { audio_ms: Math.round(this.#audio.ms(end - base)) - gap_ms, gap_ms, finals, resumes };
  }

  #count(counts) {
    for (const name of COUNTS) this.#totals[name] += counts[name] ?? 0;
  }

  // Connections --------------------------------------------------------------------------------------

  /** A new connection; the one in use goes on until it is answered. */
  async #dial() {
    clearTimeout(this.#retry);
    if (this.#next) this.#rivals = true;
    this.#next?.drop(CLOSE_REPLACED);
    this.#next = null;
    const attempt = (this.#dialling = Symbol("attempt"));
    let token = this.#token;
    try {
      if (typeof token === "function") token = await token();
    } catch (error) {
      if (attempt === this.#dialling) this.#refused(failure("token_unavailable", `no token: ${error.message}`, true));
      return;
    }
    if (attempt === this.#dialling) this.#connect(token);
  }

  #connect(token) {
    const { id, token: resume_token, lastEvent: last_event } = this.#session;
    const hello = id ? { type: "resume", session_id: id, resume_token, last_event } : { type: "start", ...this.#start };
    let socket;
    try {
      socket = new this.#WebSocket(this.#url, token ? [PROTOCOL, `bearer.${token}`] : [PROTOCOL]);
    } catch (error) {
      return this.#fail(failure("bad_address", error.message, false));
    }
    const link = new Link(socket, hello, this.#timing, {
      hear: (message) => (link === this.#link ? this.#hear(message) : this.#answered(message)),
      end: (error) => (link === this.#link ? this.#lost(error) : this.#refused(error)),
    });
    this.#next = link;
  }

  /** The connection that is new takes over. */
  #answered(message) {
    const old = this.#link;
    this.#link = this.#next;
    this.#next = this.#dialling = null;
    old?.drop(CLOSE_REPLACED);
    this.#stopSent = false;
    this.#session.tokenBefore = this.#session.token;
    this.#session.token = message.resume_token;
    if (message.type === "started") this.#begin(message);
    else this.#goOn(message);
    if (this.#over) return; // a handler of the app's has closed it
    this.#link.patience = this.#patience;
    if (this.#state !== "live") this.#enter("live", {});
    this.#pump();
  }

  #begin(started) {
    const { limits } = started;
    this.#session.id = started.session_id;
    this.#session.window = limits.window_bytes;
    this.#session.frameLimit = Math.min(FRAME_BYTES, limits.max_frame_bytes);
    this.#emit("started", started);
  }

  #goOn(resumed) {
    const offset = this.#session.base + resumed.offset;
    this.#session.resumes += 1;
    this.#session.received = resumed.offset;
    this.#outbox.rewind(offset);
    this.#emit("resumed", { ...resumed, offset });
  }

  /** The connection in use has ended. */
  #lost(error) {
    if (this.#link.age >= this.#timing.healthy) this.#failures = 0;
    this.#link = null;
    if (!this.#dialling || !this.#mayTryAgain(error)) return this.#comeBack(error);
    if (error.code === "superseded") return; // as expected: the answer to the new one is on its way
    this.#enter("reconnecting", { error, attempt: this.#failures + 1, in_ms: 0, at: Date.now() });
  }

  /** A new connection came to nothing. */
  #refused(error) {
    this.#next = this.#dialling = null;
    // what it said may still be obeyed, also where the gateway says that it cannot now: its store may be late
    if (!isGone(error)) this.#rivals = true;
    if (!this.#link) this.#comeBack(error);
    else if (this.#mayTryAgain(error)) this.#dialLater(error); // otherwise the one in use goes on to its end
  }

  #comeBack(error) {
    if (this.#session.id && isGone(error)) {
      if (this.#takeTokenBefore()) return this.#dialLater(error);
      this.#beginAnew();
      return this.#dial();
    }
    return this.#mayTryAgain(error) ? this.#dialLater(error) : this.#fail(error);
  }

  /** The right one, where an attempt that was given up was heard after the one that came through. */
  #takeTokenBefore() {
    const { tokenBefore } = this.#session;
    if (!this.#rivals || !tokenBefore) return false;
    this.#session.token = tokenBefore;
    this.#session.tokenBefore = null;
    return true;
  }

  /** With the same session. */
  #mayTryAgain({ code, retryable, retry_after_ms }) {
    if (code === "superseded") return true; // by an earlier attempt of our own: nobody else has the token
    if (code === "budget_exhausted") return retry_after_ms > 0 && retry_after_ms <= BUDGET_WAIT;
    return retryable || (code === "token_expired" && typeof this.#token === "function");
  }

  get #patience() {
    return this.#session.throttled ? this.#timing.throttled : this.#timing.silent;
  }

  #dialLater(error) {
    const { retry, retryCap } = this.#timing;
    const jitter = Math.random() * Math.min(retryCap, retry * 2 ** this.#failures);
    const wait = Math.round(jitter + (error.retry_after_ms ?? 0));
    this.#failures += 1;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#dial(), wait);
    if (!this.#link) {
      this.#enter("reconnecting", { error, attempt: this.#failures, in_ms: wait, at: Date.now() + wait });
    }
  }

  // The end ------------------------------------------------------------------------------------------

  #fail(error) {
    this.#finish("failed", error, null, CLOSE_REPLACED);
  }

  #finish(state, detail, stopped, code) {
    if (this.#over) return;
    this.#over = true;
    this.#dialling = null;
    clearTimeout(this.#retry);
    clearInterval(this.#keepalive);
    globalThis.removeEventListener?.("online", this.#online);
    this.#next?.drop(code);
    this.#link?.drop(code);
    for (const { done } of this.#waiting.splice(0)) done(false);
    if (stopped) this.#emit("stopped", stopped);
    this.#enter(state, detail);
    this.#ended(stopped);
  }

  #enter(state, detail) {
    this.#state = state;
    this.#emit("state", state, detail);
  }

  /** What a handler throws is the app's, and stops nothing here. */
  #emit(name, ...values) {
    try {
      this.#on[name]?.(...values);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}

/** One socket, from its first message to its end, of which it tells once. */
class Link {
  patience;
  #socket;
  #timing;
  #tell;
  #deadline; // nothing came by then: it is dead
  #openedAt = performance.now();
  #saidAt = performance.now();

  constructor(socket, hello, timing, tell) {
    this.#socket = socket;
    this.#timing = timing;
    this.#tell = tell;
    this.patience = timing.silent;
    socket.onopen = () => socket.send(JSON.stringify(hello));
    socket.onmessage = ({ data }) => this.#hear(JSON.parse(data));
    socket.onclose = ({ code, reason }) => this.#end(closed(code, reason));
    this.#expectAnswer(timing.answer);
  }

  /** Milliseconds. */
  get age() {
    return performance.now() - this.#openedAt;
  }

  isQuiet(ms) {
    return performance.now() - this.#saidAt >= ms;
  }

  /** Audio, or a message. */
  send(frame) {
    this.#saidAt = performance.now();
    this.#socket.send(frame instanceof Uint8Array ? frame : JSON.stringify(frame));
    if (frame.type !== "keepalive") this.#expectAnswer(this.patience);
  }

  /** Nothing more is heard of it. */
  drop(code) {
    clearTimeout(this.#deadline);
    Object.assign(this.#socket, { onopen: null, onmessage: null, onclose: null });
    this.#socket.close(code);
  }

  #expectAnswer(ms) {
    this.#deadline ??= setTimeout(() => {
      this.#end(failure("connection_lost", `nothing came from the gateway for ${ms / 1000} s`, true));
    }, ms);
  }

  #hear(message) {
    clearTimeout(this.#deadline);
    this.#deadline = undefined;
    if (message.type === "error") this.#end(message);
    else this.#tell.hear(message);
  }

  #end(error) {
    this.drop(CLOSE_REPLACED);
    this.#tell.end(error);
  }
}

/** What was said and is not settled, in order: each connection is told it once, from where the gateway asks for it. */
class Outbox {
  cursor = 0; // everything before was put in
  settled = 0; // everything before may be forgotten
  closed = false; // nothing more comes
  #frame;
  #items = []; // { kind, start, end }, and bytes, or a reason, or ids
  #next = 0; // the index of what goes out next,
  #from = 0; // and where in it

  /** `frame`: bytes of a sample. */
  constructor(frame) {
    this.#frame = frame;
  }

  /** Bytes of audio after `settled`. */
  get kept() {
    const sizes = this.#items.map(({ kind, start, end }) => (kind === "audio" ? end - Math.max(start, this.settled) : 0));
    return sizes.reduce((sum, size) => sum + Math.max(0, size), 0);
  }

  /** Everything went out on this connection, and nothing more comes. */
  get isDone() {
    return this.closed && this.#next === this.#items.length;
  }

  audio(bytes) {
    for (let at = 0; at < bytes.length; at += FRAME_BYTES) {
      const piece = bytes.slice(at, at + FRAME_BYTES);
      this.#push({ kind: "audio", bytes: piece }, piece.length);
    }
  }

  gap(size, reason) {
    const last = this.#items.at(-1);
    if (this.#next === this.#items.length || last.reason !== reason) return this.#push({ kind: "gap", reason }, size);
    last.end = this.cursor += size;
  }

  /** `id`: of this one alone; an answer that comes twice is told from the next one's. `name`: the caller's. */
  finalize(id, name) {
    this.#push({ kind: "finalize", id, name }, 0);
  }

  #push(item, size) {
    this.#items.push({ ...item, start: this.cursor, end: this.cursor + size });
    this.cursor += size;
  }

  /** What goes out next: audio or a message, or null while there is nothing, or no credit. It counts as sent. */
  next(window, frameLimit) {
    const item = this.#items[this.#next];
    if (!item) return null;
    if (item.kind === "audio") return this.#nextAudio(item, Math.min(frameLimit, this.settled + window - this.#from));
    const mayGrow = item.kind === "gap" && this.#next === this.#items.length - 1 && !this.closed;
    if (mayGrow) return null; // readers are told of one long gap, not of many short ones
    const bytes = item.end - this.#from;
    this.#sent(item.end);
    return item.kind === "gap" ? { type: "gap", bytes, reason: item.reason } : { type: "finalize", id: item.id };
  }

  #nextAudio({ start, end, bytes }, limit) {
    if (limit <= 0) return null;
    const from = this.#from - start;
    const frame = bytes.subarray(from, from + limit);
    this.#from += frame.length;
    if (this.#from === end) this.#sent(end);
    return frame;
  }

  #sent(end) {
    this.#next += 1;
    this.#from = end;
  }

  /** The gateway has everything before for good. A `finalize` waits for its answer. */
  settle(position) {
    this.settled = Math.max(this.settled, position);
    const whole = this.settled - (this.settled % this.#frame);
    this.#keep(({ kind, end }) => kind === "finalize" || end > whole);
  }

  /** The answer under its caller's name; null where nobody waits for it: it was said twice. */
  answered(finalized) {
    const asked = this.#items.find(({ kind, id }) => kind === "finalize" && id === finalized.id);
    if (!asked) return null;
    this.#keep((item) => item !== asked);
    return { ...finalized, id: asked.name };
  }

  /** A new connection, on which the gateway wants everything from here on. */
  rewind(position) {
    const next = this.#items.findIndex(({ start, end }) => start >= position || end > position);
    this.#next = next < 0 ? this.#items.length : next;
    this.#from = position;
    const start = this.#items[this.#next]?.start ?? this.cursor;
    if (start <= position) return;
    // never a silent hole, not even where the gateway wants what it had allowed to forget
    this.#items.splice(this.#next, 0, { kind: "gap", reason: "interrupted", start: position, end: start });
  }

  /** A new session begins here: it is told everything that has no answer. */
  restart(position) {
    this.settled = position;
    this.#keep(({ kind, end }) => kind === "finalize" || end > position);
    for (const item of this.#items) {
      if (item.kind === "finalize") item.start = item.end = Math.max(item.start, position);
    }
    this.rewind(position);
  }

  #keep(wanted) {
    const sent = this.#items.slice(0, this.#next).filter(wanted);
    this.#items = [...sent, ...this.#items.slice(this.#next).filter(wanted)];
    this.#next = sent.length;
  }
}

class AudioFormat {
  constructor({ encoding, sample_rate_hertz, audio_channel_count = 1 }) {
    this.frame = BYTES_PER_SAMPLE[encoding] * audio_channel_count; // bytes of a sample
    this.rate = this.frame * sample_rate_hertz; // bytes of a second
  }

  ms(bytes) {
    return (bytes * 1000) / this.rate;
  }

  /** Of the whole samples before. */
  bytes(ms) {
    return this.wholeSamples(Math.floor((ms * this.rate) / 1000));
  }

  wholeSamples(bytes) {
    return bytes - (bytes % this.frame);
  }
}

function asBytes(audio) {
  if (!ArrayBuffer.isView(audio)) return new Uint8Array(audio);
  return new Uint8Array(audio.buffer, audio.byteOffset, audio.byteLength);
}

/** A message of the gateway, so much later. */
function shifted(message, ms) {
  if (!ms) return message;
  const moved = { ...message };
  for (const name of ["start_ms", "end_ms", "at_ms"]) if (name in moved) moved[name] += ms;
  if (moved.words) moved.words = moved.words.map((word) => shifted(word, ms));
  return moved;
}

/** The gateway cannot go on with the session, whatever the reason. */
function isGone({ code, param }) {
  return GONE.has(code) || (code === "invalid_config" && param === "last_event");
}

/** In the shape of the gateway's `error`. */
function failure(code, message, retryable) {
  return { type: "error", code, message, retryable };
}

/** The socket ended without a word about why. */
function closed(code, reason) {
  const how = code === 1006 ? "it broke, or nobody answered" : `close code ${code} ${reason}`.trim();
  return failure("connection_lost", `the connection to the gateway is lost: ${how}`, !FOR_GOOD.has(code));
}
