// Frames of a video element, as fast as they are answered: what is not taken in time is not taken at all.

import { enlarged } from "./boxes.js";

const MAX_SIDE = 480; // longest side of a frame that is sent, in pixels

/**
 * Give each frame that there is time for to `engine()`, and its answer to `answered`; returns a function that stops.
 *
 * An answer has the faces in pixels of the video, `time` in the video in seconds, and `captured`, when the frame was
 * taken (as performance.now()).
 */
export function watch(video, engine, answered, failed) {
  const canvas = new OffscreenCanvas(1, 1);
  const context = canvas.getContext("2d", { alpha: false });
  let waiting = 0;
  let stopped = false;

  async function take(time) {
    const captured = performance.now();
    const scale = Math.min(1, MAX_SIDE / Math.max(video.videoWidth, video.videoHeight));
    canvas.width = Math.round(video.videoWidth * scale);
    canvas.height = Math.round(video.videoHeight * scale);
    context.drawImage(video, 0, 0, canvas.width, canvas.height);
    const answer = await engine().frame(canvas);
    if (!answer || stopped) return;
    answered({ ...answer, faces: enlarged(answer.faces, 1 / scale), time, captured });
  }

  function next(now, { mediaTime }) {
    if (stopped) return;
    video.requestVideoFrameCallback(next);
    if (waiting >= engine().depth || !video.videoWidth) return;
    waiting += 1;
    take(mediaTime)
      .catch((error) => stopped || failed(error))
      .finally(() => (waiting -= 1));
  }

  video.requestVideoFrameCallback(next);
  return () => (stopped = true);
}
