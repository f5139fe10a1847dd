'use strict';

// V's decoder, M and C: computes the next z and the frame it stands for. This
// file knows nothing of the page; tools/export_page.py writes its model.
//
// Every layer adds up products of inputs and kernel, four outputs at a time: an
// input is read once for all four, whose kernels lie side by side.

const FRAME_SIZE = 64;
const MAX_ABS_LOG_STD = 7; // As in models/mdn_rnn.py.

/** Returns the numbers of a base64 text of little-endian float16. */
function fromBase64(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  const numbers = new Float32Array(bytes.length / 2);
  for (let i = 0; i < numbers.length; i++) {
    numbers[i] = FLOATS[bytes[2 * i] | (bytes[2 * i + 1] << 8)];
  }
  return numbers;
}

/** The values of all float16, finite ones only, by their bits. */
const FLOATS = Float32Array.from({ length: 1 << 16 }, (_, bits) => {
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  const value = exponent
    ? (1 + fraction) * 2 ** (exponent - 15)
    : fraction * 2 ** -14;
  return bits >> 15 ? -value : value;
});

/**
 * A transposed convolution with stride 2 without padding, or a dense layer.
 *
 * Pixel 2·i + a of the output depends on pixels i, i − 1, ... of the input, so
 * even and odd rows and columns (a, b) have kernels of their own.
 */
class Layer {
  constructor({ size, inputs, outputs, kernel, bias }) {
    this.size = size; // Height and width of the kernel; 1 if it is dense.
    this.inputs = inputs;
    this.outputs = outputs;
    this.kernel = fromBase64(kernel);
    this.bias = fromBase64(bias);
  }

  /** Applies the layer to [height, width, inputs]; 1×1 if it is dense. */
  apply(x, height = 1, width = 1) {
    const rows = 2 * height + this.size - 2;
    const columns = 2 * width + this.size - 2;
    const y = new Float32Array(rows * columns * this.outputs);
    let offset = 0;
    for (let a = 0; a < 2; a++) {
      for (let b = 0; b < 2; b++) {
        offset = this.fill(y, x, height, width, a, b, offset);
      }
    }
    return y;
  }

  /** Fills in rows a, a + 2, ... of columns b, b + 2, ... of y. */
  fill(y, x, height, width, a, b, offset) {
    const { size, inputs, outputs, kernel, bias } = this;
    const rows = 2 * height + size - 2;
    const columns = 2 * width + size - 2;
    const tall = (size - a + 1) >> 1;
    const wide = (size - b + 1) >> 1;
    for (let output = 0; output < outputs; output += 4) {
      const left = outputs - output;
      for (let i = 0; 2 * i + a < rows; i++) {
        const firstTap = Math.max(0, i - height + 1);
        const lastTap = Math.min(tall - 1, i);
        for (let j = 0; 2 * j + b < columns; j++) {
          let sum0 = bias[output];
          let sum1 = bias[output + 1];
          let sum2 = bias[output + 2];
          let sum3 = bias[output + 3];
          // The window of columns j − wide + 1 to j, without what is beyond
          // the edges of the input.
          const first = Math.max(0, j - wide + 1);
          const length = (Math.min(width - 1, j) - first + 1) * inputs;
          const skipped = (first - (j - wide + 1)) * inputs;
          for (let tap = firstTap; tap <= lastTap; tap++) {
            let k = offset + 4 * (tap * wide * inputs + skipped);
            let at = ((i - tap) * width + first) * inputs;
            for (const end = at + length; at < end; at++, k += 4) {
              const value = x[at];
              sum0 += kernel[k] * value;
              sum1 += kernel[k + 1] * value;
              sum2 += kernel[k + 2] * value;
              sum3 += kernel[k + 3] * value;
            }
          }
          const pixel = ((2 * i + a) * columns + 2 * j + b) * outputs + output;
          y[pixel] = sum0;
          if (left > 1) y[pixel + 1] = sum1;
          if (left > 2) y[pixel + 2] = sum2;
          if (left > 3) y[pixel + 3] = sum3;
        }
      }
      offset += 4 * tall * wide * inputs;
    }
    return offset;
  }
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** The world model and its controller. */
class Network {
  constructor(model) {
    const layers = {};
    for (const [name, layer] of Object.entries(model.layers)) {
      layers[name] = new Layer(layer);
    }
    this.layers = layers;
    this.latentSize = model.latent_size;
    this.hiddenSize = model.hidden_size;
    this.numMixtures = model.num_mixtures;
    // Each dimension of z selects a component, or all select the same one.
    this.choices = model.per_dimension ? this.latentSize : 1;
    this.controllerHiddenSize = model.controller_hidden_size;
    this.rewardBins = model.reward_bins; // Empty if M predicts no outcomes.
    this.starts = {};
    for (const [name, numbers] of Object.entries(model.start_states)) {
      this.starts[name] = fromBase64(numbers);
    }
    this.numStarts = this.starts.mean.length / this.latentSize;
  }

  /** Returns {z, cell, hidden}; z is sampled from V's posterior. */
  start(index, noise) {
    const row = (numbers, size) =>
      numbers.slice(index * size, (index + 1) * size);
    const z = row(this.starts.mean, this.latentSize);
    const logvar = row(this.starts.logvar, this.latentSize);
    return {
      z: z.map((mean, i) => mean + Math.exp(logvar[i] / 2) * noise[i]),
      cell: row(this.starts.cell, this.hiddenSize),
      hidden: row(this.starts.hidden, this.hiddenSize),
    };
  }

  /** Returns C's action: steering −1..1, gas 0..1, brake 0..1. */
  act({ z, hidden }) {
    const x = new Float32Array(this.latentSize + this.controllerHiddenSize);
    x.set(z);
    x.set(hidden.subarray(0, this.controllerHiddenSize), this.latentSize);
    const [steering, gas, brake] =
      this.layers.controller.apply(x).map(Math.tanh);
    return [steering, (gas + 1) / 2, Math.max(brake, 0)];
  }

  /**
   * Imagines the next step.
   *
   * @param {{z, cell, hidden}} state before the action.
   * @param {number[]} action of three numbers.
   * @param {number} temperature at least 0; see models/mdn_rnn.py.
   * @param {number[]} gumbel draws of one Gumbel per component and choice.
   * @param {number[]} noise draws of one normal per dimension of z.
   * @returns the next state, with the expected reward and the probability that
   *     the episode ends; both null if M does not predict them.
   */
  step(state, action, temperature, gumbel, noise) {
    const { cell, hidden } = this.remember(state, action);
    const z = this.sample(
      this.layers.mixture.apply(hidden), temperature, gumbel, noise);
    const next = { z, cell, hidden, reward: null, termination: null };
    const bins = this.rewardBins;
    if (bins.length) {
      const logits = this.layers.outcomes.apply(hidden);
      next.termination = sigmoid(logits[bins.length]);
      const largest = Math.max(...logits.subarray(0, bins.length));
      const shares = bins.map((_, i) => Math.exp(logits[i] - largest));
      const total = shares.reduce((sum, share) => sum + share);
      next.reward = bins.reduce((sum, bin, i) => sum + bin * shares[i], 0);
      next.reward /= total;
    }
    return next;
  }

  /** Updates M's carry, as models/recurrent.py does. */
  remember({ z, cell, hidden }, action) {
    const size = this.hiddenSize;
    const inputs = new Float32Array(z.length + action.length + size);
    inputs.set(z);
    inputs.set(action, z.length);
    inputs.set(hidden, z.length + action.length);
    const gates = this.layers.lstm.apply(inputs);
    const next = { cell: cell.slice(), hidden: hidden.slice() };
    for (let i = 0; i < size; i++) {
      next.cell[i] = sigmoid(gates[size + i]) * cell[i] +
        sigmoid(gates[i]) * Math.tanh(gates[2 * size + i]);
      next.hidden[i] =
        sigmoid(gates[3 * size + i]) * Math.tanh(next.cell[i]);
    }
    return next;
  }

  /** Samples z from the outputs of the mixture. */
  sample(outputs, temperature, gumbel, noise) {
    const { latentSize, numMixtures, choices } = this;
    const means = numMixtures * choices;
    const logStds = means + numMixtures * latentSize;
    const likeliest = new Array(choices).fill(0);
    const score = (i) => outputs[i] + temperature * gumbel[i];
    for (let choice = 0; choice < choices; choice++) {
      for (let component = 1; component < numMixtures; component++) {
        const best = likeliest[choice] * choices + choice;
        if (score(component * choices + choice) > score(best)) {
          likeliest[choice] = component;
        }
      }
    }
    const z = new Float32Array(latentSize);
    for (let i = 0; i < latentSize; i++) {
      const at = likeliest[i % choices] * latentSize + i;
      const logStd = MAX_ABS_LOG_STD *
        Math.tanh(outputs[logStds + at] / MAX_ABS_LOG_STD);
      z[i] = outputs[means + at] +
        Math.exp(logStd) * Math.sqrt(temperature) * noise[i];
    }
    return z;
  }

  /** Decodes z to the pixels of a canvas, red, green, blue, alpha. */
  decode(z) {
    let x = this.layers.decoder_dense.apply(z);
    let size = 1;
    for (let i = 0; i < 4; i++) {
      const layer = this.layers[`decoder_${i}`];
      x = layer.apply(x, size, size);
      size = 2 * size + layer.size - 2;
      if (i < 3) {
        for (let k = 0; k < x.length; k++) if (x[k] < 0) x[k] = 0;
      }
    }
    const pixels = new Uint8ClampedArray(4 * size * size).fill(255);
    for (let i = 0; i < size * size; i++) {
      for (let color = 0; color < 3; color++) {
        // Rounded by the array.
        pixels[4 * i + color] = 255 * sigmoid(x[3 * i + color]);
      }
    }
    return pixels;
  }
}
