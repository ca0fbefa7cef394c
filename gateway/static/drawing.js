// What the live page draws on canvases: a line of recent values, and the block pool as a grid.

const FIRST_OWNER = 3; // cells below it: empty, free but findable, shared

/** A canvas in the pixels of the screen, cleared; gives its context and its size in CSS pixels. */
function prepared(canvas, height) {
  const width = canvas.clientWidth;
  const scale = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return { context, width, height };
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Lines of `series`, each a list of values in which null is a gap, the newest at the right; `length` fit in. */
export function drawLines(canvas, series, length) {
  const { context, width, height } = prepared(canvas, 44);
  const most = Math.max(...series.flat().filter((value) => value !== null), 0) || 1;
  const inks = [color("--accent"), color("--control-line")];
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.strokeStyle = color("--line");
  stroke(context, [[0, height - 0.5], [width, height - 0.5]]);
  series.forEach((values, at) => {
    context.strokeStyle = context.fillStyle = inks[at];
    let points = [];
    values.forEach((value, place) => {
      const x = width - ((values.length - 1 - place) * width) / (length - 1) - 1;
      if (value === null) {
        stroke(context, points);
        points = [];
      } else {
        points.push([x, height - 2 - ((height - 5) * value) / most]);
      }
    });
    stroke(context, points);
  });
}

function stroke(context, points) {
  if (points.length === 1) context.fillRect(points[0][0] - 1, points[0][1] - 1, 2, 2);
  context.beginPath();
  points.forEach(([x, y]) => context.lineTo(x, y));
  context.stroke();
}

/** A colour for an owner; those of neighbours in time are far apart. */
export function ownerColor(owner) {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  return `hsl(${((owner - FIRST_OWNER) * 137.5 + 205) % 360} ${isDark ? "45% 58%" : "50% 52%"})`;
}

/** The pool as squares; `cells` is a byte for each block that is shown. */
export function drawPool(canvas, cells) {
  const width = canvas.clientWidth;
  const step = Math.max(4, Math.min(14, Math.floor(Math.sqrt((width * 320) / Math.max(cells.length, 1)))));
  const columns = Math.max(1, Math.floor(width / step));
  const { context } = prepared(canvas, Math.max(1, Math.ceil(cells.length / columns)) * step);
  const fixed = [color("--line"), color("--kept"), color("--shared")];
  const gap = step > 6 ? 2 : 1;
  cells.forEach((cell, at) => {
    context.fillStyle = fixed[cell] ?? ownerColor(cell);
    context.fillRect((at % columns) * step, Math.floor(at / columns) * step, step - gap, step - gap);
  });
}
