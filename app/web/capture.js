// Runs on the audio thread: whatever flows in becomes LINEAR16 (16-bit little-endian mono), posted in chunks.
//
// Posts { audio: ArrayBuffer, level } per chunk; `level` is the RMS, 0 to 1. Any message to it ends it: the rest comes as
// a shorter chunk, then { done: true }. The browser mixes channels down before they come here.

class Capture extends AudioWorkletProcessor {
  #decimate;
  #chunk;
  #filled = 0;
  #squares = 0;
  #sum = 0;
  #summed = 0;
  #done = false;

  /** `decimate`: so many input samples become one, by averaging; for rates over what the gateway takes. */
  constructor({ processorOptions: { decimate, chunkSamples } }) {
    super();
    this.#decimate = decimate;
    this.#chunk = new Int16Array(chunkSamples);
    this.port.onmessage = () => this.#finish();
  }

  process([input]) {
    if (input.length && !this.#done) for (const sample of input[0]) this.#take(sample);
    return !this.#done;
  }

  #take(sample) {
    this.#sum += sample;
    if (++this.#summed < this.#decimate) return;
    const value = Math.max(-1, Math.min(1, this.#sum / this.#decimate));
    this.#sum = this.#summed = 0;
    this.#squares += value * value;
    this.#chunk[this.#filled++] = Math.round(value * 0x7fff);
    if (this.#filled === this.#chunk.length) this.#post();
  }

  #post() {
    const audio = this.#chunk.slice(0, this.#filled).buffer;
    const level = Math.sqrt(this.#squares / this.#filled);
    this.#filled = this.#squares = 0;
    this.port.postMessage({ audio, level }, [audio]);
  }

  #finish() {
    if (this.#filled) this.#post();
    this.#done = true;
    this.port.postMessage({ done: true });
  }
}

registerProcessor("capture", Capture);
