// Live captions from a gateway that speaks `stt.v1`: one session over one WebSocket. Knows nothing of a page.
//
//   const client = new CaptionsClient({
//     url: address,                                 // of /ws/transcribe
//     start: { audio: { encoding: "LINEAR16", sample_rate_hertz: 16000 }, language_codes: ["en-US"] },
//     on: {
//       state: (state) => {},                       // "connecting", "listening", "finishing", "closed"
//       interim: ({ text, start_ms }) => {},        // provisional: replaces the interim before it
//       final: ({ text, start_ms, end_ms }) => {},  // never changes; the interim is over
//       gap: ({ start_ms, end_ms, reason }) => {},  // text is missing here: say so to the reader
//       held: (held) => {},                         // whether audio waits because the gateway is behind
//       ended: ({ stopped, error }) => {},          // once, the last call; neither is set after close()
//     },
//   });
//   client.send(chunk);                             // at once, even before "listening"
//   client.stop();                                  // no more audio: the last finals come, then `ended`
//
// Every handler is optional. All other messages of the gateway reach the handler of their name as well: `started`,
// `ack`, `warning`, `throttle`, `go_away`, `finalized`, `speech_started`, `speech_ended`.

const QUEUE_SECONDS = 30; // audio that waits for credit; what comes on top is skipped, and readers see a gap
const KEEPALIVE_MS = 15_000; // well under the gateway's idle timeout
const BYTES_PER_SAMPLE = { LINEAR16: 2, MULAW: 1, ALAW: 1 };

export class CaptionsClient {
  #socket;
  #on;
  #state = "connecting";
  #queue = []; // chunks, and { skipped: bytes } where they did not fit
  #queued = 0; // bytes in it
  #queueLimit;
  #sent = 0; // the cursor: bytes that went out or were skipped
  #settled = 0; // ack.final
  #window = 0; // ack.window
  #frameLimit = 0;
  #held = false;
  #stopping = false;
  #keepalive;

  /** Connects at once. `token`: an API key or a signed token, where the gateway asks for one. */
  constructor({ url, token, start, on = {} }) {
    const { encoding, sample_rate_hertz: rate } = start.audio;
    this.#on = on;
    this.#queueLimit = QUEUE_SECONDS * rate * BYTES_PER_SAMPLE[encoding];
    this.#socket = new WebSocket(url, token ? ["stt.v1", `bearer.${token}`] : ["stt.v1"]);
    this.#socket.onopen = () => this.#say({ type: "start", ...start });
    this.#socket.onmessage = ({ data }) => this.#hear(JSON.parse(data));
    this.#socket.onclose = ({ code, reason }) => this.#end({ error: lost(code, reason) });
    this.#emit("state", this.#state);
  }

  get state() {
    return this.#state;
  }

  /** The next audio, an ArrayBuffer or a view of one, of any size. Not copied: do not write to it again. */
  send(audio) {
    if (this.#stopping || this.#state === "closed") return;
    const chunk = ArrayBuffer.isView(audio)
      ? new Uint8Array(audio.buffer, audio.byteOffset, audio.byteLength)
      : new Uint8Array(audio);
    if (this.#queued + chunk.length > this.#queueLimit) this.#skip(chunk.length);
    else {
      this.#queue.push(chunk);
      this.#queued += chunk.length;
    }
    this.#pump();
  }

  /** No more audio. What waits still goes out, and the text of it still comes. */
  stop() {
    this.#stopping = true;
    this.#pump();
  }

  /** Leaves at once, without the text that is still to come. */
  close() {
    this.#end({});
  }

  #hear(message) {
    switch (message.type) {
      case "started":
        this.#window = message.limits.window_bytes;
        this.#frameLimit = message.limits.max_frame_bytes;
        this.#keepalive = setInterval(() => this.#held && this.#say({ type: "keepalive" }), KEEPALIVE_MS);
        this.#enter("listening");
        break;
      case "ack":
        this.#settled = Math.max(this.#settled, message.final);
        this.#window = message.window;
        break;
    }
    this.#emit(message.type, message);
    if (message.type === "stopped") this.#end({ stopped: message });
    if (message.type === "error") this.#end({ error: message });
    this.#pump();
  }

  /** Sends what the credit allows: never more than `window` bytes ahead of what is final. */
  #pump() {
    if (this.#state !== "listening") return;
    while (this.#queue.length && this.#sendHead());
    this.#hold(this.#queue.length > 0);
    if (this.#stopping && !this.#queue.length) {
      this.#say({ type: "stop" });
      this.#enter("finishing");
    }
  }

  /** Returns whether anything could be sent. */
  #sendHead() {
    const [head] = this.#queue;
    if (head.skipped) {
      this.#queue.shift();
      this.#sent += head.skipped;
      this.#say({ type: "gap", bytes: head.skipped, reason: "overflow" });
      return true;
    }
    const size = Math.min(head.length, this.#frameLimit, this.#settled + this.#window - this.#sent);
    if (size <= 0) return head.length === 0 && this.#queue.shift() !== undefined;
    this.#socket.send(head.subarray(0, size));
    this.#sent += size;
    this.#queued -= size;
    if (size < head.length) this.#queue[0] = head.subarray(size);
    else this.#queue.shift();
    return true;
  }

  #skip(bytes) {
    const last = this.#queue.at(-1);
    if (last?.skipped) last.skipped += bytes;
    else this.#queue.push({ skipped: bytes });
  }

  #hold(held) {
    if (held === this.#held) return;
    this.#held = held;
    this.#emit("held", held);
  }

  #say(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #enter(state) {
    this.#state = state;
    this.#emit("state", state);
  }

  #end(outcome) {
    if (this.#state === "closed") return;
    clearInterval(this.#keepalive);
    this.#queue = [];
    this.#enter("closed");
    this.#socket.close();
    this.#emit("ended", outcome);
  }

  #emit(name, value) {
    this.#on[name]?.(value);
  }
}

/** In the shape of the gateway's `error`: the socket ended without a word about why. */
function lost(code, reason) {
  const how = code === 1006 ? "it broke, or nobody answered" : `close code ${code} ${reason}`.trim();
  const message = `the connection to the gateway is lost: ${how}`;
  return { type: "error", code: "connection_lost", message, retryable: true };
}
