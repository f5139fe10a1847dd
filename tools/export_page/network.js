'use strict';

// V's decoder, M and C: computes the next z and the frame it stands for. This
// file knows nothing of the page; tools/export_page/__main__.py writes its model.

const FRAME_SIZE = 64;

/**
 * A transposed convolution with stride 2 without padding, or a dense layer.
 *
 * Pixel 2·i + a of the output depends on pixels i, i − 1, ... of the input, so
 * even and odd rows and columns (a, b) have kernels of their own. Four outputs
 * are computed at a time: an input is read once for all four, whose kernels lie
 * side by side.
 */
class Layer {
  constructor(products, { size, height, inputs, outputs, kernel, bias }) {
    this.products = products;
    this.size = size; // Height and width of the kernel; 1 if it is dense.
    this.height = height; // Of the input, and its width; 1 if it is dense.
    this.inputs = inputs; // A multiple of 4, as are the outputs.
    this.outputs = outputs;
    this.kernel = products.store(fromBase64(kernel));
    this.bias = fromBase64(bias);
    this.x = products.allocate(height ** 2 * inputs);
    this.outputHeight = 2 * height + size - 2;
    this.y = products.allocate(this.outputHeight ** 2 * outputs);
  }

  /** Returns what a layer needs of the memory of the products. */
  static bytes({ size, height, inputs, outputs }) {
    const kernel = size ** 2 * inputs * outputs;
    const output = (2 * height + size - 2) ** 2 * outputs;
    return 4 * (kernel + height ** 2 * inputs + output);
  }

  /** Applies the layer; the output is valid until the next call. */
  apply(...x) {
    let at = 0;
    for (const part of x) {
      this.x.set(part, at);
      at += part.length;
    }
    let offset = 0;
    for (let a = 0; a < 2; a++) {
      for (let b = 0; b < 2; b++) offset = this.fill(a, b, offset);
    }
    return this.y;
  }

  /** Fills in rows a, a + 2, ... of columns b, b + 2, ... of the output. */
  fill(a, b, offset) {
    const { size, height, inputs, outputs, bias, outputHeight, y } = this;
    const { addUp } = this.products;
    const [from, to, kernel] =
      [this.x, y, this.kernel].map((x) => x.byteOffset);
    const tall = (size - a + 1) >> 1;
    const wide = (size - b + 1) >> 1;
    for (let output = 0; output < outputs; output += 4) {
      for (let i = 0; 2 * i + a < outputHeight; i++) {
        const firstTap = Math.max(0, i - height + 1);
        const lastTap = Math.min(tall - 1, i);
        for (let j = 0; 2 * j + b < outputHeight; j++) {
          const pixel =
            ((2 * i + a) * outputHeight + 2 * j + b) * outputs + output;
          for (let k = 0; k < 4; k++) y[pixel + k] = bias[output + k];
          // The window of columns j − wide + 1 to j, without what is beyond
          // the edges of the input.
          const first = Math.max(0, j - wide + 1);
          const length = (Math.min(height - 1, j) - first + 1) * inputs;
          const skipped = (first - (j - wide + 1)) * inputs;
          for (let tap = firstTap; tap <= lastTap; tap++) {
            const at = ((i - tap) * height + first) * inputs;
            const k = offset + 4 * (tap * wide * inputs + skipped);
            addUp(to + 4 * pixel, from + 4 * at, kernel + 4 * k, length);
          }
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
  constructor(model, vectors = true) {
    const bytes = Object.values(model.layers).map(Layer.bytes);
    const products = new Products(bytes.reduce((x, y) => x + y), vectors);
    this.vectors = products.vectors;
    this.layers = {};
    for (const [name, layer] of Object.entries(model.layers)) {
      this.layers[name] = new Layer(products, layer);
    }
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

  /** Returns {z, cell, hidden}; z is the mean of V's posterior. */
  start(index) {
    const row = (numbers, size) =>
      numbers.slice(index * size, (index + 1) * size);
    return {
      z: row(this.starts.mean, this.latentSize),
      cell: row(this.starts.cell, this.hiddenSize),
      hidden: row(this.starts.hidden, this.hiddenSize),
    };
  }

  /** Returns C's action: steering −1..1, gas 0..1, brake 0..1. */
  act({ z, hidden }) {
    const seen = hidden.subarray(0, this.controllerHiddenSize);
    const [steering, gas, brake] =
      this.layers.controller.apply(z, seen).map(Math.tanh);
    return [steering, (gas + 1) / 2, Math.max(brake, 0)];
  }

  /**
   * Imagines the next step.
   *
   * @param {{z, cell, hidden}} state before the action.
   * @param {number[]} action of three numbers.
   * @param {number} temperature at least 0; see models/mdn_rnn.py.
   * @param {number[]} gumbel draws of one Gumbel per component and choice.
   * @returns the next state, with the expected reward and the probability that
   *     the episode ends; both null if M does not predict them.
   */
  step(state, action, temperature, gumbel) {
    const { cell, hidden } = this.remember(state, action);
    const z =
      this.sample(this.layers.mixture.apply(hidden), temperature, gumbel);
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
    const gates = this.layers.lstm.apply(z, action, hidden);
    const next = { cell: cell.slice(), hidden: hidden.slice() };
    for (let i = 0; i < size; i++) {
      next.cell[i] = sigmoid(gates[size + i]) * cell[i] +
        sigmoid(gates[i]) * Math.tanh(gates[2 * size + i]);
      next.hidden[i] =
        sigmoid(gates[3 * size + i]) * Math.tanh(next.cell[i]);
    }
    return next;
  }

  /**
   * Draws a component of the mixture; z is its mean, as C sees means of V's
   * posterior in the game: dreams without noise, see models/world_model.py.
   */
  sample(outputs, temperature, gumbel) {
    const { latentSize, numMixtures, choices } = this;
    const means = numMixtures * choices;
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
      z[i] = outputs[means + at];
    }
    return z;
  }

  /** Decodes z to the pixels of a canvas, red, green, blue, alpha. */
  decode(z) {
    const relu = (x) => {
      for (let i = 0; i < x.length; i++) if (x[i] < 0) x[i] = 0;
      return x;
    };
    const { layers } = this;
    let x = layers.decoder_dense.apply(z);
    for (let i = 0; i < 3; i++) x = relu(layers[`decoder_${i}`].apply(x));
    x = layers.decoder_3.apply(x);
    const pixels = new Uint8ClampedArray(4 * FRAME_SIZE ** 2).fill(255);
    for (let i = 0; i < pixels.length; i++) {
      // Rounded by the array. The layer has a fourth, unused output.
      if (i % 4 < 3) pixels[i] = 255 * sigmoid(x[i]);
    }
    return pixels;
  }
}
