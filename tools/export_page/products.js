'use strict';

// The numbers of the network in one block of memory, and the products that take
// nearly all of its time: in WebAssembly with vectors of four numbers, or, where
// the browser has no such vectors, in JavaScript.

/** The values of all float16, finite ones only, by their bits. */
const FLOATS = Float32Array.from({ length: 1 << 16 }, (_, bits) => {
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  const value = exponent
    ? (1 + fraction) * 2 ** (exponent - 15)
    : fraction * 2 ** -14;
  return bits >> 15 ? -value : value;
});

/** Returns the numbers of a base64 text of little-endian float16. */
function fromBase64(text) {
  const characters = atob(text);
  const numbers = new Float32Array(characters.length / 2);
  for (let i = 0; i < numbers.length; i++) {
    const low = characters.charCodeAt(2 * i);
    numbers[i] = FLOATS[low | (characters.charCodeAt(2 * i + 1) << 8)];
  }
  return numbers;
}

/**
 * Memory, and the function addUp(to, from, kernel, length) on its addresses:
 *
 *   to[j] += Σ kernel[4·k + j] · from[k]   with j = 0..3, k = 0..length − 1
 *
 * The length is a multiple of 4.
 */
class Products {
  constructor(bytes, vectors = true) {
    this.used = 0;
    const compiled = vectors ? compile(bytes) : null;
    this.vectors = compiled !== null;
    if (this.vectors) {
      [this.buffer, this.addUp] = compiled;
    } else {
      this.buffer = new ArrayBuffer(bytes);
      this.addUp = addUpIn(new Float32Array(this.buffer));
    }
  }

  /** Returns room for some numbers, zeros. */
  allocate(count) {
    const numbers = new Float32Array(this.buffer, this.used, count);
    this.used += 16 * Math.ceil(count / 4);
    return numbers;
  }

  store(numbers) {
    const stored = this.allocate(numbers.length);
    stored.set(numbers);
    return stored;
  }
}

function addUpIn(numbers) {
  return (to, from, kernel, length) => {
    const y = to / 4;
    let sum0 = numbers[y];
    let sum1 = numbers[y + 1];
    let sum2 = numbers[y + 2];
    let sum3 = numbers[y + 3];
    let k = kernel / 4;
    for (let at = from / 4, end = at + length; at < end; at++, k += 4) {
      const x = numbers[at];
      sum0 += numbers[k] * x;
      sum1 += numbers[k + 1] * x;
      sum2 += numbers[k + 2] * x;
      sum3 += numbers[k + 3] * x;
    }
    numbers[y] = sum0;
    numbers[y + 1] = sum1;
    numbers[y + 2] = sum2;
    numbers[y + 3] = sum3;
  };
}

/**
 * Returns a memory and the function in WebAssembly; null where the browser lacks
 * it, or a page's policy forbids it.
 */
function compile(bytes) {
  try {
    const memory =
      new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) });
    const code = new WebAssembly.Module(assemble());
    const { exports } = new WebAssembly.Instance(code, { m: { m: memory } });
    return [memory.buffer, exports.f];
  } catch {
    return null;
  }
}

/** Returns the same function as a WebAssembly module with one memory. */
function assemble() {
  // Parameters and local variables; the sums are vectors.
  const [to, from, kernel, length] = [0, 1, 2, 3];
  const sums = [4, 5, 6, 7];

  const get = (variable) => [0x20, variable];
  const set = (variable) => [0x21, variable];
  const number = (value) => [0x41, ...signed(value)]; // i32.const
  const ADD = 0x6a; // i32.add
  const load = (offset) => [0xfd, 0x00, 2, offset]; // v128.load
  const spread = (offset) => [0xfd, 0x09, 2, offset]; // v128.load32_splat
  const STORE = [0xfd, 0x0b, 2, 0]; // v128.store
  const VECTOR_ADD = [0xfd, 0xe4, 0x01]; // f32x4.add
  const VECTOR_MULTIPLY = [0xfd, 0xe6, 0x01]; // f32x4.mul
  const advance = (variable, by) =>
    [...get(variable), ...number(by), ADD, ...set(variable)];

  const body = [
    1, sums.length, 0x7b, // Local variables: vectors, zeros.
    ...get(to), ...load(0), ...set(sums[0]),
    0x03, 0x40, // loop
    // Four sums, for an addition need not wait for the one before.
    ...sums.flatMap((sum, i) => [
      ...get(sum),
      ...get(from), ...spread(4 * i),
      ...get(kernel), ...load(16 * i),
      ...VECTOR_MULTIPLY, ...VECTOR_ADD, ...set(sum),
    ]),
    ...advance(from, 16), ...advance(kernel, 64), ...advance(length, -4),
    ...get(length), 0x0d, 0, // br_if
    0x0b, // end of the loop
    ...get(to),
    ...get(sums[0]), ...get(sums[1]), ...VECTOR_ADD,
    ...get(sums[2]), ...get(sums[3]), ...VECTOR_ADD,
    ...VECTOR_ADD, ...STORE,
    0x0b, // end
  ];
  const sized = (bytes) => [...unsigned(bytes.length), ...bytes];
  const section = (id, ...bytes) => [id, ...sized([1, ...bytes])];
  const name = (letter) => [1, letter.charCodeAt(0)];
  return Uint8Array.from([
    0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, 0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 0), // Type: 4 × i32.
    ...section(2, ...name('m'), ...name('m'), 2, 0, 1), // Imported memory.
    ...section(3, 0), // A function of that type,
    ...section(7, ...name('f'), 0, 0), // which is exported,
    ...section(10, ...sized(body)), // and its code.
  ]);
}

/** Variable-length integers of WebAssembly: LEB128. */
function unsigned(value) {
  return value < 128 ? [value] : [(value & 127) | 128, ...unsigned(value >> 7)];
}

function signed(value) {
  const fits = value >= -64 && value < 64;
  return fits ? [value & 127] : [(value & 127) | 128, ...signed(value >> 7)];
}
