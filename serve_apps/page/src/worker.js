// The worker that reads faces on this device: detector and classifier in ONNX Runtime, compiled to WebAssembly.

import * as ort from "onnxruntime-web/wasm";
import { detect, guide } from "./faces.js";
import { channels, resize, softmax, square } from "./preprocess.js";

ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

let model, classifier, detector;
const canvas = new OffscreenCanvas(1, 1);
const context = canvas.getContext("2d", { willReadFrequently: true });

const methods = {
  /** Load the networks from their files' bytes. */
  async load(files) {
    model = files.model;
    ort.env.wasm.wasmBinary = files.wasm;
    const externalData = [{ path: "model.safetensors", data: files.weights }];
    classifier = await ort.InferenceSession.create(files.graph, { externalData });
    detector = files.detector && (await ort.InferenceSession.create(files.detector));
  },

  /** The faces of an image, in the format of the server's answers. */
  async read({ bitmap, live }) {
    const image = pixels(bitmap);
    const boxes = detector ? await detect(image, runDetector, live) : [guide(image)];
    return boxes.length ? classify(image, boxes) : [];
  },
};

function pixels(bitmap) {
  const { width, height } = bitmap;
  [canvas.width, canvas.height] = [width, height];
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

async function runDetector(values, width, height) {
  const input = new ort.Tensor("float32", values, [1, 3, height, width]);
  const outputs = await detector.run({ [detector.inputNames[0]]: input });
  return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, tensor.data]));
}

async function classify(image, boxes) {
  const { img_size: side, channels: count } = model;
  const input = new Uint8Array(boxes.length * side * side * count);
  for (const [i, box] of boxes.entries()) {
    const { x, y, side: width } = square(box, model.margin);
    const part = box.whole ? { x: 0, y: 0, width: box.w, height: box.h } : { x, y, width, height: width };
    input.set(channels(resize(image, part, side, side), count), i * side * side * count);
  }
  const outputs = await classifier.run({ pixels: new ort.Tensor("uint8", input, [boxes.length, side, side, count]) });
  return boxes.map((box, i) => face(box, row(outputs.logits, i), row(outputs.valence_arousal, i)));
}

const row = (tensor, i) => tensor && tensor.data.subarray(i * tensor.dims[1], (i + 1) * tensor.dims[1]);

function face(box, logits, affect) {
  const probabilities = logits && softmax(logits, model.temperature);
  const scores = probabilities && Object.fromEntries(model.labels.map((label, i) => [label, probabilities[i]]));
  const confidence = probabilities ? Math.max(...probabilities) : null;
  return {
    box: { x: Math.round(box.x), y: Math.round(box.y), w: Math.round(box.w), h: Math.round(box.h) },
    detection_confidence: box.score ?? null,
    whole_image: Boolean(box.whole),
    guided: Boolean(box.guided),
    label: probabilities ? model.labels[probabilities.indexOf(confidence)] : null,
    confidence,
    scores: scores ?? null,
    valence: affect ? affect[0] : null,
    arousal: affect ? affect[1] : null,
    uncertain: confidence !== null && confidence < model.min_confidence,
  };
}

onmessage = async ({ data: { number, method, argument } }) => {
  try {
    postMessage({ number, result: await methods[method](argument) });
  } catch (error) {
    postMessage({ number, error: error.message });
  }
};
